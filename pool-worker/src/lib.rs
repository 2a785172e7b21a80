//! Worker executables.
