//! `[task]`: a command, or a task by name; and the programs behind them must be there.

use std::env;
use std::ffi::OsString;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pool_worker::builtin::{self, DEFAULT_OUTPUT_CAP_BYTES};
use toml::Spanned;

use super::{Planner, unreadable};
use crate::job::file::{LimitsSection, TaskSection};
use crate::job::host;
use crate::job::placeholders::{JsonTemplate, Shape, Template};
use crate::job::plan::{CommandPlan, NamedPlan, TaskPlan};
use crate::job::source::{Problem, suggest};

impl Planner<'_> {
    /// What is done with each input.
    pub(super) fn task(
        &mut self,
        section: Option<Spanned<TaskSection>>,
        shape: &Shape,
        limits: &LimitsSection,
    ) -> Option<TaskPlan> {
        const HINT: &str =
            "give it `command = [..]`, or `task = \"..\"` with the `worker` that has it";
        let Some(section) = section else {
            self.missing("", Problem::new("the section [task] is missing").hint(HINT));
            return None;
        };
        let at = section.span();
        let section = section.into_inner();
        match (&section.command, &section.task) {
            (Some(_), None) => self.command(section, shape, limits).map(TaskPlan::Command),
            (None, Some(_)) => self.named(section, shape, limits).map(TaskPlan::Named),
            (Some(_), Some(task)) => {
                let message = "[task] has both a `command` and a `task`";
                self.problem(Problem::at(task.span(), message).hint("leave one of them out"));
                None
            }
            (None, None) => {
                self.missing(
                    "task",
                    Problem::at(at, "[task] has neither a `command` nor a `task`").hint(HINT),
                );
                None
            }
        }
    }

    fn command(
        &mut self,
        section: TaskSection,
        shape: &Shape,
        limits: &LimitsSection,
    ) -> Option<CommandPlan> {
        let TaskSection { command, worker, task: _, args, cwd, env, stdin, stderr } = section;
        self.not_with_a_command("worker", worker.map(|at| at.span()), "it is for a `task`");
        self.not_with_a_command("args", args.map(|at| at.span()), "write them into the command");
        self.not_with_a_command(
            "stderr",
            stderr.map(|at| at.span()),
            "a command's is part of its result",
        );
        let command = command?;
        let at = command.span();
        let words = command.into_inner();
        let argv: Vec<Option<Template>> =
            words.iter().map(|word| self.template(word, shape)).collect();
        if argv.is_empty() {
            self.problem(Problem::at(at, "the command is empty").hint("name the program first"));
        }
        let cwd = cwd.and_then(|cwd| self.folder_template(&cwd, shape));
        let own_path = env.get("PATH").map(|path| path.get_ref().clone());
        let env = env.into_iter().map(|(name, value)| Some((name, self.template(&value, shape)?)));
        let env: Vec<Option<_>> = env.collect();
        let stdin = stdin.map(|text| self.template(&text, shape));
        if let (Some(Some(program)), Some(word)) = (argv.first(), words.first()) {
            self.program_is_there(program, word.span(), cwd.as_ref(), own_path);
        }
        let cap =
            limits.output_cap.as_ref().map_or(DEFAULT_OUTPUT_CAP_BYTES, |cap| cap.get_ref().0);
        Some(CommandPlan {
            argv: argv.into_iter().collect::<Option<_>>()?,
            cwd,
            env: env.into_iter().collect::<Option<_>>()?,
            stdin: stdin.map_or(Some(None), |text| text.map(Some))?,
            output_cap_bytes: cap,
        })
    }

    fn not_with_a_command(&mut self, key: &str, at: Option<Range<usize>>, why: &str) {
        if let Some(at) = at {
            let message = format!("`{key}` does not go with a `command`");
            self.problem(Problem::at(at, message).hint(format!("leave it out: {why}")));
        }
    }

    /// A folder to run in. If it is always the same one, it must be there.
    fn folder_template(&mut self, text: &Spanned<String>, shape: &Shape) -> Option<Template> {
        let template = self.template(text, shape)?;
        if let Some(constant) = template.constant() {
            self.folder_is_there(constant, text.span());
        }
        Some(template)
    }

    fn folder_is_there(&mut self, folder: &str, at: Range<usize>) -> PathBuf {
        let full = self.base(&at).join(folder);
        if !full.is_dir() {
            let message = format!("there is no folder `{}`", full.display());
            self.problem(Problem::at(at, message).missing());
        }
        full
    }

    /// A program that is the same for every input is looked for now, not a thousand times later.
    fn program_is_there(
        &mut self,
        program: &Template,
        at: Range<usize>,
        cwd: Option<&Template>,
        own_path: Option<String>,
    ) {
        let Some(program) = program.constant() else { return };
        if program.contains('/') {
            let Some(cwd) = cwd.map_or(Some(""), Template::constant) else { return };
            let full = self.folder.join(cwd).join(program);
            if !is_executable(&full) {
                let message = format!("`{}` is not there, or not executable", full.display());
                self.problem(
                    Problem::at(at, message).hint("a path is relative to `cwd`").missing(),
                );
            }
            return;
        }
        let path = own_path.map(OsString::from).or_else(|| env::var_os("PATH")).unwrap_or_default();
        if !env::split_paths(&path).any(|folder| is_executable(&folder.join(program))) {
            let message = format!("there is no program `{program}` on PATH");
            let hint = "install it, or write its path with a slash";
            self.problem(Problem::at(at, message).hint(hint).missing());
        }
    }

    fn named(
        &mut self,
        section: TaskSection,
        shape: &Shape,
        limits: &LimitsSection,
    ) -> Option<NamedPlan> {
        let TaskSection { command: _, worker, task, args, cwd, env, stdin, stderr } = section;
        if let Some(stdin) = stdin {
            let message = "`stdin` does not go with a `task`";
            self.problem(Problem::at(stdin.span(), message).hint("pass it in `args`"));
        }
        if let Some(cap) = &limits.output_cap {
            let message = "`output_cap` does not go with a `task`";
            self.problem(
                Problem::at(cap.span(), message).hint("it is for what a `command` prints"),
            );
        }
        let task = task?;
        let cwd = cwd.and_then(|cwd| Some((self.constant("cwd", &cwd)?, cwd.span())));
        let cwd = cwd.map(|(cwd, at)| self.folder_is_there(&cwd, at));
        let env =
            env.iter().map(|(name, value)| Some((name.clone(), self.constant("env", value)?)));
        let env: Vec<Option<_>> = env.collect();
        let args = args.map(|args| self.args(&args, shape));
        let worker = match worker {
            Some(worker) => Some(self.worker(&worker, &task)?),
            None => {
                let builtin = builtin::host();
                self.task_is_known(&task, builtin.names().collect(), "there is no built-in task");
                None
            }
        };
        Some(NamedPlan {
            worker,
            task: task.into_inner(),
            args: args.map_or(Some(None), |args| args.map(Some))?,
            cwd,
            env: env.into_iter().collect::<Option<_>>()?,
            stderr: stderr.map(Spanned::into_inner).unwrap_or_default(),
        })
    }

    fn args(&mut self, args: &Spanned<toml::Value>, shape: &Shape) -> Option<JsonTemplate> {
        let value = self.json(args.get_ref(), args.span())?;
        match JsonTemplate::parse(value, shape) {
            Ok(template) => Some(template),
            Err(error) => {
                self.problem(Problem::at(args.span(), error.message).maybe_hint(error.hint));
                None
            }
        }
    }

    /// The worker executable, if it is one and has the task.
    fn worker(&mut self, worker: &Spanned<String>, task: &Spanned<String>) -> Option<PathBuf> {
        let full = self.base(&worker.span()).join(worker.get_ref());
        if let Err(error) = std::fs::metadata(&full) {
            self.problem(
                unreadable(worker.span(), &full, &error).hint("build it, or correct the path"),
            );
            return None;
        }
        match host::ask(&full) {
            Ok(info) => {
                let names = info.tasks.iter().map(String::as_str).collect();
                self.task_is_known(task, names, "this worker has no task");
            }
            Err(error) => {
                let message = format!("this is no worker executable: {error}");
                let hint = "a worker calls pool_worker::Host::run() in its main";
                self.problem(Problem::at(worker.span(), message).hint(hint));
            }
        }
        Some(full)
    }

    fn task_is_known(&mut self, task: &Spanned<String>, names: Vec<&str>, message: &str) {
        let name = task.get_ref();
        if !names.contains(&name.as_str()) {
            let hint = suggest(name, names);
            self.problem(Problem::at(task.span(), format!("{message} `{name}`")).maybe_hint(hint));
        }
    }
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
