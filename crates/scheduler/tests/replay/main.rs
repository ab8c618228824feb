//! Replays all scenarios over all tables of costs.

mod sim;

#[test]
fn every_scenario_ends() {
    for c in sim::compare_all() {
        assert!(c.ideal <= c.ours.makespan, "{c:?}");
        assert!(c.ideal <= c.prefill_first.makespan, "{c:?}");
    }
}
