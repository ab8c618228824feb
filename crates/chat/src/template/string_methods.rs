//! Python's string methods, with sentinels of the guard where their result could contain a control token's name.
//!
//! A template that removes a word such as `/think` from a user's text joins the texts on both sides of it, which may make
//! a name (`<|im_/thinkend|>`). One that splits at a word moves the text after it to the start. One that changes case may
//! make a name as well. Slices and minijinja's own filters do so too, and have no hook.

use std::sync::Arc;

use minijinja::value::{Kwargs, Rest, StringInput, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::fuel::charge_call;
use crate::control_names::{ControlNames, insert_at};
use crate::guard::{JOINT, is_reserved};

/// Above this many parts, each border gets a [`JOINT`] without a check; it is removed if it turns out not to be needed.
const MAX_CHECKED_PARTS: usize = 64;

/// Adds the filter `replace`. `names` are those of the control tokens.
pub(super) fn add_replace_filter(env: &mut Environment<'static>, names: &Arc<ControlNames>) {
    let names = Arc::clone(names);
    env.add_filter(
        "replace",
        move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| -> Result<Value, Error> {
            let args = args.into_values();
            type Args<'a> = (StringInput<'a>, Value, Value, Option<i32>, Kwargs);
            let (text, from, to, count, kwargs): Args<'_> = from_args(&args)?;
            let count: Option<i32> = count.or(kwargs.get("count")?);
            kwargs.assert_all_used()?;
            let args = [Value::from(from.to_string()), Value::from(to.to_string()), count.into()];
            let text = Value::from(text.as_str());
            charge_call(state, &text, &args)?;
            replace(state, &names, &text, &args)
        },
    );
}

/// Calls one of Python's methods, and inserts sentinels into its result.
pub(super) fn call_method(
    state: &mut State<'_, '_>,
    names: &ControlNames,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if value.kind() != ValueKind::String || names.is_empty() {
        return unknown_method_callback(state, value, method, args);
    }
    if method == "replace" {
        return replace(state, names, value, args);
    }
    let result = unknown_method_callback(state, value, method, args)?;
    match method {
        // Without white space at the ends the guard's sentinels are still in place.
        "strip" | "lstrip" | "rstrip" if args.is_empty() => Ok(result),
        "strip" | "lstrip" | "rstrip" => Ok(guard_edges(names, result)),
        "split" | "splitlines" => {
            state.consume_fuel(result.len().unwrap_or(0) as u64)?;
            Ok(result.try_iter()?.map(|part| guard_edges(names, part)).collect())
        }
        "lower" | "upper" | "title" | "capitalize" if result != *value => {
            Ok(guard_names(names, result))
        }
        _ => Ok(result),
    }
}

/// A part of a text, with [`JOINT`] where a name could arise from it and the texts beside it.
fn guard_edges(names: &ControlNames, part: Value) -> Value {
    let marked = part.as_str().and_then(|text| text_with_guarded_edges(names, text));
    marked.map_or(part, Value::from)
}

/// [`guard_edges`] of a text; `None` if it needs no sentinel.
fn text_with_guarded_edges(names: &ControlNames, text: &str) -> Option<String> {
    let edges: Vec<usize> = names.edges(text).collect();
    (!edges.is_empty()).then(|| insert_at(text, &edges, JOINT))
}

/// A text in another case, with [`JOINT`] in every name and at its edges.
fn guard_names(names: &ControlNames, value: Value) -> Value {
    let marked = value.as_str().map(|text| names.insert_sentinels(text, JOINT));
    marked.map_or(value, Value::from)
}

/// Python's `replace`, which also checks the arguments and the fuel for the result.
fn replace(
    state: &mut State<'_, '_>,
    names: &ControlNames,
    value: &Value,
    args: &[Value],
) -> Result<Value, Error> {
    let replaced = unknown_method_callback(state, value, "replace", args)?;
    let text = |value: Option<&Value>| value.and_then(|value| value.as_str().map(str::to_owned));
    let (Some(text), Some(old), Some(new)) =
        (text(Some(value)), text(args.first()), text(args.get(1)))
    else {
        return Ok(replaced);
    };
    let count = args.get(2).and_then(|count| usize::try_from(count.clone()).ok());
    let joined = guarded_replacement(names, &text, [&old, &new], count.unwrap_or(usize::MAX));
    Ok(joined.map_or(replaced, Value::from))
}

/// The text after a replacement, with [`JOINT`] wherever a name could arise, or be completed, across a border of it; `None`
/// if it needs no sentinel.
fn guarded_replacement(
    names: &ControlNames,
    text: &str,
    [old, new]: [&str; 2],
    count: usize,
) -> Option<String> {
    if old.is_empty() || names.is_empty() {
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    for (index, part) in text.splitn(count.saturating_add(1), old).enumerate() {
        parts.extend((index > 0 && !new.is_empty()).then_some(new));
        parts.push(part);
    }
    // Text from the inside is at an edge now.
    let cut = new.is_empty() && [parts.first(), parts.last()].contains(&Some(&""));
    let many = parts.len() > MAX_CHECKED_PARTS;
    let (mut out, mut any) = (String::with_capacity(text.len()), false);
    for part in parts {
        if !part.is_empty() && !out.is_empty() && (many || can_span(names, &out, part)) {
            out.push(JOINT);
            any = true;
        }
        out.push_str(part);
    }
    let edged = if cut { text_with_guarded_edges(names, &out) } else { None };
    edged.or(any.then_some(out))
}

/// Whether a name could start in one text and end in the other or after it, sentinels ignored.
fn can_span(names: &ControlNames, left: &str, right: &str) -> bool {
    let plain = |c: &char| !is_reserved(*c);
    let mut end: Vec<char> = left.chars().rev().filter(plain).take(names.longest()).collect();
    end.reverse();
    let end: String = end.into_iter().collect();
    let begin: String = right.chars().filter(plain).take(names.longest()).collect();
    // A short text may be within a name that the template starts.
    names.can_span(&end, &begin) || end.len() < names.longest() && names.can_end_in(&begin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> ControlNames {
        ControlNames::new(["<|im_end|>", "[INST]"].map(str::to_owned))
    }

    #[track_caller]
    fn check(text: &str, old: &str, new: &str, expected: Option<&str>) {
        let expected = expected.map(|text| text.replace('J', &JOINT.to_string()));
        assert_eq!(
            guarded_replacement(&names(), text, [old, new], usize::MAX),
            expected,
            "{text:?}"
        );
    }

    #[test]
    fn joints_are_where_names_could_arise() {
        check("Longer than a name: <|im_/x_end|>", "/x", "", None);
        check("<|im_/xend|>", "/x", "", Some("<|im_Jend|>"));
        check("<|/xim_/xend|>", "/x", "", Some("<|Jim_Jend|>"));
        // The template may continue the text at an end.
        check("a <|/xim", "/x", "", Some("a <|Jim"));
        check("d|>/x b", "/x", "", None);
        check("<|im*end|>", "*", "_", Some("<|imJ_Jend|>"));
        check("Is 1 < 2? /x", "/x", "", None);
        check("/x", "/x", "", None);
        // The text after the word is at the start.
        check("/x INST] ", "/x", "", Some(" JINST] "));
        check("a [/x", "/x", "", Some("a [J"));
        check("[INST]", "", "-", None);
    }

    #[test]
    fn many_joints_cost_no_search() {
        let text = "ab".repeat(MAX_CHECKED_PARTS);
        let joined = guarded_replacement(&names(), &text, ["a", ""], usize::MAX).unwrap();
        assert_eq!(joined.matches(JOINT).count(), MAX_CHECKED_PARTS - 1);
        assert_eq!(joined.replace(JOINT, ""), "b".repeat(MAX_CHECKED_PARTS));
    }
}
