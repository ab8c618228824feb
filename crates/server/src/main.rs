//! The `forebay` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    forebay_server::run(std::env::args_os(), variables).into()
}
