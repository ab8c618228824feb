//! What a tool's JSON Schema says of its arguments: for grammars of calls, and for the parser of calls.

pub(crate) mod allowed_texts;
pub(crate) mod argument_kinds;
pub(crate) mod parameters;
pub(crate) mod references;
pub(crate) mod value_types;
