//! What a template may cost. Templates come with model files, which anybody may have made.
//!
//! minijinja counts instructions and text as fuel. What it does not count is charged here: walking
//! over values that are written, and methods that read a long text and return little.

use std::sync::Arc;

use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};

use crate::names::Names;
use crate::rewriting;

/// The longest template, in bytes; the longest of those in llama.cpp's sources has 18 kB. The time to
/// parse a chain of operators grows with its square.
pub(super) const LONGEST_SOURCE: usize = 64 * 1024;
/// minijinja's parser descends once for each operator of a chain (`- - - 1`), which took up to 436
/// bytes of stack for one byte of source where it was measured.
const PARSE_STACK: usize = 1024 * LONGEST_SOURCE;
/// Fuel for an empty conversation, for each turn or tool, and for each byte of their text. What fuel is
/// spent on may nest: a value that is nested this deep is freed within two megabytes of stack.
const FUEL: u64 = 150_000;
const FUEL_OF_ITEM: u64 = 2_000;
const FUEL_OF_BYTE: u64 = 8;
/// The most fuel of a rendering: some hundred times what a long conversation needs, and some seconds.
const MOST_FUEL: u64 = 4_000_000;
/// How deep values may nest that a template writes; JSON in requests nests no deeper than 128.
const DEEPEST: usize = 256;
/// The longest format of a date, in bytes.
pub(super) const LONGEST_FORMAT: usize = 256;
/// The longest message of `raise_exception`, in characters; more is cut.
pub(super) const LONGEST_REASON: usize = 1024;

/// The fuel for rendering this many turns and tools (`items`), with this many bytes of text.
pub(super) fn fuel(items: usize, bytes: usize) -> u64 {
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let items = FUEL_OF_ITEM.saturating_mul(count(items));
    let bytes = FUEL_OF_BYTE.saturating_mul(count(bytes));
    FUEL.saturating_add(items).saturating_add(bytes).min(MOST_FUEL)
}

/// Runs the parser on a thread of its own, whose stack is large enough for its recursion.
pub(super) fn with_room<T: Send>(run: impl FnOnce() -> T + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread =
            std::thread::Builder::new().name("template".to_owned()).stack_size(PARSE_STACK);
        let thread = thread.spawn_scoped(scope, run).map_err(|e| e.to_string())?;
        thread.join().map_err(|_| "the parser failed".to_owned())
    })
}

/// Makes an environment charge what minijinja does not. `names` are those of the control tokens.
pub(super) fn install(env: &mut Environment<'static>, names: &Arc<Names>) {
    env.set_formatter(|out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value| {
        charge(state, value)?;
        minijinja::escape_formatter(out, state, value)
    });
    rewriting::add_filter(env, names);
    let names = Arc::clone(names);
    env.set_unknown_method_callback(move |state, value, method, args| {
        charge_call(state, value, args)?;
        rewriting::call_method(state, &names, value, method, args)
    });
}

/// Charges a method for what it reads.
///
/// # Errors
/// If there is too little fuel left.
pub(crate) fn charge_call(
    state: &State<'_, '_>,
    value: &Value,
    args: &[Value],
) -> Result<(), Error> {
    let read: usize = [value].into_iter().chain(args).map(weight).sum();
    spend(state, read / 64)
}

/// What a method may read of a value, in bytes.
fn weight(value: &Value) -> usize {
    value.as_str().map_or_else(|| value.len().unwrap_or(1).saturating_mul(32), str::len)
}

fn spend(state: &State<'_, '_>, fuel: usize) -> Result<(), Error> {
    state.consume_fuel(u64::try_from(fuel).unwrap_or(u64::MAX))
}

/// Charges a value that is written: each of its parts as often as it is in it. Lists that hold the same
/// list twice, and so on, have few bytes and many parts.
///
/// # Errors
/// If there is too little fuel left, or the value nests too deeply.
pub(crate) fn charge(state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    let holds_more = |value: &Value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable)
    };
    if !holds_more(value) {
        return Ok(());
    }
    let mut open = vec![(value.clone(), value.try_iter()?)];
    while let Some((container, items)) = open.last_mut() {
        let Some(item) = items.next() else {
            open.pop();
            continue;
        };
        let below = match container.kind() {
            ValueKind::Map => container.get_item(&item)?,
            _ => item.clone(),
        };
        spend(state, 1 + (weight_of_text(&item) + weight_of_text(&below)) / 64)?;
        if holds_more(&below) {
            if open.len() >= DEEPEST {
                let why = "a value nests too deeply to be written";
                return Err(Error::new(ErrorKind::InvalidOperation, why));
            }
            let items = below.try_iter()?;
            open.push((below, items));
        }
    }
    Ok(())
}

fn weight_of_text(value: &Value) -> usize {
    value.as_str().map_or(0, str::len)
}

/// Whether Python's Jinja could iterate over a value; this looks at its kind alone.
pub(super) fn is_iterable(value: &Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::Undefined
            | ValueKind::String
            | ValueKind::Seq
            | ValueKind::Map
            | ValueKind::Iterable
    )
}

/// An environment's copy with this fuel.
pub(super) fn with_fuel(env: &Arc<Environment<'static>>, fuel: u64) -> Environment<'static> {
    let mut env = Environment::clone(env);
    env.set_fuel(Some(fuel));
    env
}
