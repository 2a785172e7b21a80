//! `pool-cli check`: job files from the smallest to the fullest, and what each mistake looks like.

use crate::support::Job;
use insta::assert_snapshot;

const MINIMAL: &str = "\
[task]
command = ['true']
[inputs]
range = { end = 3 }
";

#[test]
fn the_smallest_job_has_a_default_for_everything_else() {
    let ran = Job::new(MINIMAL).cli(&["check", "--set", "pool.procs=2", "job.toml"]);
    assert_snapshot!(ran.redacted());
}

#[test]
fn the_fullest_job_uses_every_key() {
    let command = Job::new(
        "\
[pool]
procs = 10
grace = '2s'
term_grace = '5s'
start_timeout = '10s'

[task]
command = ['sh', '-c', 'echo \"$NAME {{}}\"', 'sh', '{path}', '{stem}.{ext}']
cwd = '{dir}'
env = { NAME = '{name}', LC_ALL = 'C' }
stdin = '{index}: {}'

[inputs]
glob = ['**/*.txt', 'more/*']
exclude = '**/target/**'

[limits]
timeout = '1m 30s'
retries = 2
memory = '2 GiB'
output_cap = '64 KiB'

[stop]
equals = 'found'
on = 'first-failure'

[output]
file = 'results.jsonl'
keep_order = true
fields = ['input', 'outcome', 'stdout']
",
    );
    assert_snapshot!(command.cli(&["check", "job.toml"]).redacted());
    let named = Job::new(
        "\
[task]
task = 'echo'
args = { id = '{id}', all = ['{}', 1.5, true], when = 2026-01-02 }
cwd = '.'
env = { LC_ALL = 'C' }
stderr = 'discard'

[inputs]
csv = 'in.csv'

[stop]
equals = { a = 1 }
field = 'all.0'
",
    )
    .file("in.csv", "id,name\n1,x\n");
    assert_snapshot!(named.cli(&["check", "--set", "pool.procs=2", "job.toml"]).redacted());
}

/// Each mistake in a job file of its own, with a snapshot of its own.
macro_rules! mistakes {
    ($($name:ident: $text:expr,)*) => {
        $(
            #[test]
            fn $name() {
                let job = Job::new($text).file("rows.csv", "id,size\n1,2\n").script("no-worker", "exit 1");
                let job = job.script("worker", r#"echo '{"pool_worker":"0","tasks":["word_count"]}'"#);
                assert_snapshot!(stringify!($name), job.cli(&["check", "job.toml"]).redacted());
            }
        )*
    };
}

/// A job that is right but for what is added to it.
macro_rules! minimal {
    ($($more:literal)*) => { concat!("[task]\ncommand = ['true']\n[inputs]\nrange = { end = 3 }\n", $($more)*) };
}

mistakes! {
    empty_file: "",
    syntax: "[task\ncommand = ['true'\n[inputs]\nvalues = [1 2]\n",
    duplicate_key: "[task]\ncommand = ['a']\ncommand = ['b']\n",
    unknown_section: minimal!("[limit]\ntimeout = '3s'\n"),
    unknown_keys: minimal!("[pool]\nprocesses = 3\n[limits]\ntimout = '3s'\nzzz = 1\n"),
    wrong_types: minimal!("[pool]\nprocs = '4'\n[limits]\nretries = -1\ntimeout = 30\noutput_cap = true\n[output]\nkeep_order = 1\n"),
    zero_processes: minimal!("[pool]\nprocs = 0\n"),
    time_without_unit: minimal!("[limits]\ntimeout = '30'\n"),
    size_that_is_none: minimal!("[limits]\noutput_cap = '3 potatoes'\n"),
    stop_on_what: minimal!("[stop]\non = 'first-sucess'\n"),
    stop_says_nothing: minimal!("[stop]\n"),
    stop_field_alone: minimal!("[stop]\nfield = 'x'\n"),
    output_into_nowhere: minimal!("[output]\nfile = 'no/such/folder/out.jsonl'\nfields = ['inptu']\n"),
    no_task: "[task]\n[inputs]\nrange = { end = 3 }\n",
    two_tasks: "[task]\ncommand = ['true']\ntask = 'echo'\n[inputs]\nrange = { end = 3 }\n",
    empty_command: "[task]\ncommand = []\n[inputs]\nrange = { end = 3 }\n",
    command_as_text: "[task]\ncommand = 'gzip -k {}'\n[inputs]\nrange = { end = 3 }\n",
    no_such_program: "[task]\ncommand = ['no-such-program', '{}']\n[inputs]\nrange = { end = 3 }\n",
    no_such_script: "[task]\ncommand = ['./no-such-script']\ncwd = 'nowhere'\n[inputs]\nrange = { end = 3 }\n",
    command_with_keys_of_a_task: "[task]\ncommand = ['true']\nworker = 'w'\nargs = 1\nstderr = 'discard'\n[inputs]\nrange = { end = 3 }\n",
    task_with_keys_of_a_command: "[task]\ntask = 'echo'\nstdin = 'x'\ncwd = '{dir}'\n[inputs]\nrange = { end = 3 }\n[limits]\noutput_cap = 3\n",
    unknown_built_in_task: "[task]\ntask = 'checksums'\n[inputs]\nrange = { end = 3 }\n",
    no_such_worker: "[task]\nworker = 'target/my-tasks'\ntask = 'x'\n[inputs]\nrange = { end = 3 }\n",
    worker_that_is_none: "[task]\nworker = 'no-worker'\ntask = 'x'\n[inputs]\nrange = { end = 3 }\n",
    worker_without_the_task: "[task]\nworker = 'worker'\ntask = 'wordcount'\n[inputs]\nrange = { end = 3 }\n",
    unknown_placeholder: "[task]\ncommand = ['wc', '{pth}', \"{print $1}\", 'a } b']\n[inputs]\nrange = { end = 3 }\n",
    unknown_column: "[task]\ncommand = ['wc', '{sise}', '{path}']\n[inputs]\ncsv = 'rows.csv'\n",
    no_inputs: "[task]\ncommand = ['true']\n",
    inputs_as_a_list: "inputs = ['a', 'b']\n[task]\ncommand = ['true']\n",
    sections_that_are_no_tables: "task = 'wc'\npool = [3]\n[inputs]\nrange = { end = 3 }\n",
    keys_of_other_sections: minimal!("[pool]\ntimeout = '3s'\nfile = 'x'\n[limits]\nprocs = 3\ncmd = 1\n"),
    range_that_is_a_number: "[task]\ncommand = ['true']\n[inputs]\nrange = 500\n",
    output_is_a_folder: minimal!("[output]\nfile = '.'\n"),
    output_in_no_folder: minimal!("[output]\nfile = 'no/such/folder/out.jsonl'\n"),
    no_source: "[task]\ncommand = ['true']\n[inputs]\n",
    two_sources: "[task]\ncommand = ['true']\n[inputs]\nlines = '-'\nglob = '*'\n",
    missing_input_file: "[task]\ncommand = ['true']\n[inputs]\nlines = 'words.txt'\n",
    folder_as_input_file: "[task]\ncommand = ['true']\n[inputs]\nlines = '.'\n",
    malformed_patterns: "[task]\ncommand = ['true']\n[inputs]\nglob = ['ok', 'a/{b']\n",
    exclude_without_glob: "[task]\ncommand = ['true']\n[inputs]\nrange = { end = 3, by = 2 }\nexclude = 'x'\n",
    range_without_end: "[task]\ncommand = ['true']\n[inputs]\nrange = { start = 3 }\n",
    range_with_step_zero: "[task]\ncommand = ['true']\n[inputs]\nrange = { end = 3, step = 0 }\n",
    value_that_is_no_json: "[task]\ncommand = ['true']\n[inputs]\nvalues = [1.0, inf]\n",
}

#[test]
fn a_job_that_is_not_there_or_no_text() {
    let job = Job::new(MINIMAL).file("latin.toml", b"# \xe4\n");
    assert_snapshot!(job.cli(&["check", "nowhere.toml"]).redacted());
    assert_snapshot!(job.cli(&["check", "latin.toml"]).redacted());
}

/// How many tasks there would be, as `check` says it.
#[track_caller]
fn assert_tasks(job: &Job, args: &[&str], expected: &str) {
    let ran = job.cli(&[&["check", "job.toml"], args].concat());
    let shown = &ran.stdout;
    assert!(shown.ends_with(&format!("\ntasks   {expected}\n")), "{shown}");
    assert_eq!(ran.code, 0);
}

#[test]
fn check_says_how_many_tasks_there_are() {
    let job = Job::new("[task]\ncommand = ['echo', '{id}']\n[inputs]\nrange = { end = 3 }\n");
    let job = job.file("rows.csv", "id,size\n1,2\n3\n4,5\n").file("list", "a\n\nb\n");
    let set = |inputs: &'static str| ["--set", inputs];
    assert_tasks(
        &job,
        &set("inputs={csv='rows.csv'}"),
        "2, one for each valid input; 1 input is invalid, which `run --dry-run` shows",
    );
    let more = "inputs={values=[{id=1}, {id=2}, {no=3}, {}]}";
    assert_tasks(
        &job,
        &set(more),
        "2, one for each valid input; 2 inputs are invalid, which `run --dry-run` shows",
    );
    let command = "task.command=['echo', '{}']";
    let count = |inputs: &'static str, expected: &str| {
        assert_tasks(&job, &["--set", command, "--set", inputs], expected);
    };
    count("inputs={lines='list'}", "2, one for each input");
    count("inputs={glob='*.csv'}", "1, one for each input");
    count("inputs={glob='*.none'}", "none: there is no input");
    count("inputs={range={end=2_000_000}}", "more than 1000000, one for each input");
    count("inputs={lines='-'}", "one for each input, as they come");
    count("inputs={lines='/dev/zero'}", "one for each input, as they come");
}

#[test]
fn a_job_file_without_its_verb_is_met_with_the_right_one() {
    let ran = Job::new(MINIMAL).cli(&["job.toml"]);
    assert_eq!(ran.code, 2);
    assert_eq!(
        ran.stderr,
        "error: `job.toml` is no command; to run that job: pool-cli run job.toml\n"
    );
}

#[test]
fn problems_of_options_point_at_them() {
    let job = Job::new(MINIMAL);
    let args = ["check", "--set", "pool.procs=many", "--set", "pol=1", "--input", "[a", "job.toml"];
    assert_snapshot!(job.cli(&args).redacted());
}
