//! What the policy yields in all scenarios over all tables of costs: exact figures, because time is
//! virtual.
//!
//! A policy change that alters them is followed by
//! `UPDATE_REPLAY=1 cargo test --release -p forebay-scheduler --test replay`, which writes
//! docs/performance.md and the list of exceptions anew; the difference says what it did.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use sim::Comparison;
use sim::report::{Condition, markdown};

mod costs;
mod sim;

const BEGIN: &str = "<!-- replay: written by UPDATE_REPLAY=1 -->\n";
const END: &str = "<!-- replay: end -->\n";
/// Exceptions are written with two digits.
const ROUNDING: f64 = 0.005;

/// A condition that does not hold.
#[derive(Debug, Clone, PartialEq)]
struct Exception {
    scenario: String,
    table: String,
    condition: Condition,
    value: f64,
    why: String,
}

fn all() -> &'static [Comparison] {
    static ALL: OnceLock<Vec<Comparison>> = OnceLock::new();
    ALL.get_or_init(sim::compare_all)
}

fn is_update() -> bool {
    std::env::vars().any(|(name, _)| name == "UPDATE_REPLAY")
}

fn exceptions_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/replay/exceptions.txt")
}

fn read_exceptions() -> Vec<Exception> {
    let text = std::fs::read_to_string(exceptions_file()).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let parse = |line: &str| {
        let fields: Vec<&str> = line.splitn(5, ' ').collect();
        let [scenario, table, name, value, why] = fields[..] else { panic!("{line}") };
        let condition = Condition::ALL.into_iter().find(|c| c.name() == name);
        Exception {
            scenario: scenario.into(),
            table: table.into(),
            condition: condition.unwrap_or_else(|| panic!("{line}")),
            value: value.parse().unwrap(),
            why: why.into(),
        }
    };
    lines.map(parse).collect()
}

/// What holds where it should not need an exception, by the listed ones or without.
fn failing() -> Vec<Exception> {
    let listed = read_exceptions();
    let each = |c: &Comparison| {
        let value = |condition: Condition| (condition, condition.value(c));
        let failing = Condition::ALL.map(value).into_iter().filter(|(k, v)| !k.holds(*v));
        let exception = |(condition, value): (Condition, f64)| {
            let same = |e: &&Exception| {
                e.scenario == c.scenario && e.table == c.table && e.condition == condition
            };
            let why = listed.iter().find(same).map_or("?", |e| e.why.as_str()).to_owned();
            let (scenario, table) = (c.scenario.to_owned(), c.table.to_owned());
            Exception { scenario, table, condition, value, why }
        };
        failing.map(exception).collect::<Vec<_>>()
    };
    all().iter().flat_map(each).collect()
}

fn write_exceptions() {
    let text = std::fs::read_to_string(exceptions_file()).unwrap();
    let head = text.lines().filter(|line| line.starts_with('#')).map(str::to_owned);
    let lines = failing().into_iter().map(|e| {
        let Exception { scenario, table, condition, value, why } = e;
        format!("{scenario} {table} {} {value:.2} {why}", condition.name())
    });
    let lines: Vec<String> = head.chain(lines).collect();
    std::fs::write(exceptions_file(), lines.join("\n") + "\n").unwrap();
}

#[test]
fn throughput_ttft_and_itl_are_as_good_as_they_should_be() {
    if is_update() {
        write_exceptions();
    }
    let (listed, failing) = (read_exceptions(), failing());
    let same = |a: &Exception, b: &Exception| {
        (&a.scenario, &a.table, a.condition) == (&b.scenario, &b.table, b.condition)
    };
    let regressed = |now: &&Exception| {
        let worse = |e: &Exception| {
            let slack = if e.condition == Condition::Itl { ROUNDING } else { -ROUNDING };
            !e.condition.is_no_worse(now.value, e.value + slack)
        };
        listed.iter().find(|e| same(e, now)).is_none_or(worse)
    };
    let regressions: Vec<&Exception> = failing.iter().filter(regressed).collect();
    assert!(regressions.is_empty(), "worse than it should be or was: {regressions:#?}");
    let over = listed.iter().filter(|e| !failing.iter().any(|now| same(e, now)));
    let over: Vec<&Exception> = over.collect();
    assert!(over.is_empty(), "no exceptions any more, UPDATE_REPLAY=1 removes them: {over:#?}");
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
    let table = format!("\n{}\n", markdown(all()));
    if is_update() {
        std::fs::write(&path, [before, BEGIN, &table, END, after].concat()).unwrap();
    } else {
        assert!(written == table, "docs/performance.md is not what comes out; UPDATE_REPLAY=1");
    }
}
