//! Replays scenarios in virtual time over recorded costs of decode calls, under the scheduler and
//! under the peer's policy, and sets both beside a lower bound.

use std::time::Duration;

pub(crate) mod costs;
pub(crate) mod ideal;
pub(crate) mod ours;
pub(crate) mod prefill_first;
pub(crate) mod replay;
pub(crate) mod report;
pub(crate) mod scenarios;

use costs::{CostTable, Efficient};
use ours::Forebay;
use prefill_first::PrefillFirst;
use replay::{Figures, replay};
use scenarios::Scenario;

/// One scenario over one table.
#[derive(Debug)]
pub(crate) struct Comparison {
    pub(crate) scenario: &'static str,
    pub(crate) table: &'static str,
    pub(crate) ours: Figures,
    pub(crate) prefill_first: Figures,
    /// No policy can end before.
    pub(crate) ideal: Duration,
    /// The chunk that prompts can be cut into at little loss, where the scenario's prompts are
    /// deepest.
    pub(crate) efficient: Efficient,
}

/// All scenarios over all tables.
pub(crate) fn compare_all() -> Vec<Comparison> {
    let tables = costs::all();
    let of = |table: &CostTable| {
        let all = scenarios::all(table.parallel, table.pace);
        all.iter().map(|scenario| compare(scenario, table)).collect::<Vec<_>>()
    };
    tables.iter().flat_map(of).collect()
}

fn compare(scenario: &Scenario, table: &CostTable) -> Comparison {
    Comparison {
        scenario: scenario.name,
        table: table.name,
        ours: replay(scenario, &mut Forebay::new(table)),
        prefill_first: replay(scenario, &mut PrefillFirst::new(table)),
        ideal: ideal::time(scenario, table),
        efficient: table.efficient_chunk(scenario.deepest_prompt()),
    }
}
