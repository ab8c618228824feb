//! What the policy yields in all scenarios over all tables of costs: exact figures, because time is
//! virtual.
//!
//! After a policy change `UPDATE_REPLAY=1 cargo test --release -p forebay-scheduler --test replay`
//! rewrites docs/performance.md and the list of exceptions: the difference shows its effect.

use std::path::Path;
use std::sync::OnceLock;

use sim::Comparison;

mod conditions;
mod costs;
mod sim;

const BEGIN: &str = "<!-- replay: written by UPDATE_REPLAY=1 -->\n";
const END: &str = "<!-- replay: end -->\n";

fn all() -> &'static [Comparison] {
    static ALL: OnceLock<Vec<Comparison>> = OnceLock::new();
    ALL.get_or_init(sim::compare_all)
}

fn is_update() -> bool {
    std::env::vars().any(|(name, _)| name == "UPDATE_REPLAY")
}

#[test]
fn throughput_ttft_and_itl_are_as_good_as_they_should_be() {
    if is_update() {
        conditions::update(all());
    }
    conditions::check(all());
}

#[test]
fn no_policy_beats_the_ideal() {
    for c in all() {
        assert!(c.ideal <= c.ours.makespan, "{c:?}");
        assert!(c.ideal <= c.prefill_first.makespan, "{c:?}");
    }
}

#[test]
fn the_documented_table_is_what_comes_out() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/performance.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (written, after) = rest.split_once(END).unwrap();
    let table = format!("\n{}\n", sim::report::markdown(all()));
    if is_update() {
        std::fs::write(&path, [before, BEGIN, &table, END, after].concat()).unwrap();
    } else {
        assert!(written == table, "docs/performance.md has other figures; UPDATE_REPLAY=1");
    }
}
