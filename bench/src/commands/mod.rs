//! The subcommands: arguments in, text out; the work is in the library.

pub(crate) mod cost;
pub(crate) mod exec;
pub(crate) mod load;
pub(crate) mod report;
pub(crate) mod run;

/// What a subcommand that cannot go on says.
pub(crate) type Error = Box<dyn std::error::Error>;
