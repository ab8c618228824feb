//! The fuel of a rendering: a bound on its cost. Templates come with model files, which need not be well-meant.
//!
//! minijinja counts instructions and text as fuel. Two things it does not count are charged here: walking over values
//! that are written, and methods that read a long text and return little.

use std::sync::Arc;

use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, State, Value};

/// Fuel for an empty conversation. A value that is nested as deep as fuel allows is freed within two megabytes of stack.
const BASE_FUEL: u64 = 150_000;
/// Fuel for each turn or tool.
const FUEL_PER_ITEM: u64 = 2_000;
/// Fuel for each byte of their text.
const FUEL_PER_BYTE: u64 = 8;
/// The most fuel of a rendering: some hundred times what a long conversation needs, and some seconds.
const MAX_FUEL: u64 = 4_000_000;
/// How deep values may nest that a template writes; JSON in requests nests no deeper than 128.
const MAX_DEPTH: usize = 256;

/// The fuel for rendering `items` turns and tools with `bytes` bytes of text.
pub(super) fn budget(items: usize, bytes: usize) -> u64 {
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let items = FUEL_PER_ITEM.saturating_mul(count(items));
    let bytes = FUEL_PER_BYTE.saturating_mul(count(bytes));
    BASE_FUEL.saturating_add(items).saturating_add(bytes).min(MAX_FUEL)
}

/// Charges a method call on `value` for the text that it reads.
///
/// # Errors
/// When too little fuel is left.
pub(super) fn charge_call(
    state: &State<'_, '_>,
    value: &Value,
    args: &[Value],
) -> Result<(), Error> {
    let read: usize = [value].into_iter().chain(args).map(bytes_read).sum();
    consume(state, read / 64)
}

/// What a method may read of a value, in bytes.
fn bytes_read(value: &Value) -> usize {
    value.as_str().map_or_else(|| value.len().unwrap_or(1).saturating_mul(32), str::len)
}

fn consume(state: &State<'_, '_>, fuel: usize) -> Result<(), Error> {
    state.consume_fuel(u64::try_from(fuel).unwrap_or(u64::MAX))
}

/// Charges a value that is written for each of its elements, repeated ones included: lists that hold the same list
/// twice, which does so again, take little memory and much time.
///
/// # Errors
/// When too little fuel is left, or the value nests deeper than [`MAX_DEPTH`].
pub(super) fn charge_value(state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    let is_container = |value: &Value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable)
    };
    if !is_container(value) {
        return Ok(());
    }
    let mut open = vec![(value.clone(), value.try_iter()?)];
    while let Some((container, items)) = open.last_mut() {
        let Some(item) = items.next() else {
            open.pop();
            continue;
        };
        let element = match container.kind() {
            ValueKind::Map => container.get_item(&item)?,
            _ => item.clone(),
        };
        consume(state, 1 + (text_bytes(&item) + text_bytes(&element)) / 64)?;
        if is_container(&element) {
            if open.len() >= MAX_DEPTH {
                let why = "a value nests too deeply to be written";
                return Err(Error::new(ErrorKind::InvalidOperation, why));
            }
            let items = element.try_iter()?;
            open.push((element, items));
        }
    }
    Ok(())
}

fn text_bytes(value: &Value) -> usize {
    value.as_str().map_or(0, str::len)
}

/// A copy of the environment with this fuel.
pub(super) fn with_fuel(env: &Arc<Environment<'static>>, fuel: u64) -> Environment<'static> {
    let mut env = Environment::clone(env);
    env.set_fuel(Some(fuel));
    env
}
