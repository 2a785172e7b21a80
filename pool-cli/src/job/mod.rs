//! The job: its file as typed, its problems, and the plan made of it.
//!
//! [`load`] goes the whole way: [`parse`] reads the TOML into the shape of [`mod@file`] and applies what the command line sets;
//! [`planner`] checks it and makes a [`Plan`]; whatever is wrong comes back as [`Problems`], each with its place.

pub(crate) mod file;
#[cfg(test)]
mod fuzz;
mod glob;
mod host;
pub(crate) mod inputs;
pub(crate) mod parse;
pub(crate) mod placeholders;
pub(crate) mod plan;
mod planner;
pub(crate) mod source;
pub(crate) mod units;

use std::env;
use std::fs;
use std::io;
use std::path::Path;

pub(crate) use host::ask as ask_host;
pub(crate) use plan::Plan;

use crate::exit::{Exit, Failure};
use parse::Settings;
use planner::Folders;
use source::{Problems, Source};

/// A job file is written by a person; anything bigger is something else.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Reads and checks a job file.
pub(crate) fn load(path: &Path, settings: &Settings) -> Result<Plan, Failure> {
    let text = read(path)?;
    let user = env::current_dir().map_err(|error| {
        Failure::new(Exit::OsRefused, format!("the current directory can't be read: {error}"))
    })?;
    let full = user.join(path);
    let job = full.parent().unwrap_or(&user).to_owned();
    let mut source = Source::new(path.display().to_string(), text);
    let plan = parse::parse(&mut source, settings)
        .and_then(|parsed| planner::plan(parsed, &source, Folders { job, user }));
    plan.map_err(|list| {
        let problems = Problems::new(source, list);
        Failure { exit: problems.exit(), text: problems.to_string() }
    })
}

fn read(path: &Path) -> Result<String, Failure> {
    let failed = |error: io::Error| {
        let message = match error.kind() {
            io::ErrorKind::NotFound => format!("there is no job file `{}`", path.display()),
            io::ErrorKind::IsADirectory => {
                format!("`{}` is a folder, not a job file", path.display())
            }
            _ => format!("the job file `{}` can't be read: {error}", path.display()),
        };
        Failure::new(Exit::MissingFile, message)
    };
    let size = fs::metadata(path).map_err(failed)?.len();
    if size > MAX_FILE_BYTES {
        let message =
            format!("`{}` has {size} bytes; a job file has at most 16 MiB", path.display());
        return Err(Failure::new(Exit::InvalidJob, message));
    }
    let bytes = fs::read(path).map_err(failed)?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let message = format!("`{}` is not UTF-8 text (at byte {at})", path.display());
        Failure::new(Exit::InvalidJob, message)
    })
}
