//! Both directions of the protocol on one screen each, and the handshake. No I/O here.

pub(crate) mod fork_server;
pub(crate) mod from_worker;
pub(crate) mod hello;
pub(crate) mod outcome;
pub(crate) mod to_worker;
