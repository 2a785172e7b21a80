//! Worker processes: started by one thread per pool, each behind a link.

pub(crate) mod exit;
pub(crate) mod fork_server;
pub(crate) mod last_lines;
pub(crate) mod link;
pub(crate) mod spawner;
pub(crate) mod tagging;
