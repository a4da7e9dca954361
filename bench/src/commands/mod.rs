//! The subcommands: arguments in, text out; the work is in the library.

pub(crate) mod load;

/// What a subcommand that cannot go on says.
pub(crate) type Error = Box<dyn std::error::Error>;
