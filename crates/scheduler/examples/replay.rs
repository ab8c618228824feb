//! Prints what the policy yields beside prefill-first and the ideal, in all scenarios over all
//! tables of costs.

use std::io::Write;

#[path = "../tests/replay/sim/mod.rs"]
mod sim;

fn main() -> std::io::Result<()> {
    let table = sim::report::markdown(&sim::compare_all());
    std::io::stdout().write_all(table.as_bytes())
}
