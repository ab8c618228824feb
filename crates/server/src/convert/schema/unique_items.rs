//! `uniqueItems`: arrays of a few different values are listed.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::build::set;
use super::keywords::Keywords;
use super::not_enforced::Keyword;
use super::rewriter::Rewriter;
use super::values::size;

/// Values of which items are different: of five there are 326 arrays.
const MAX_UNIQUE: usize = 5;
/// Arrays that a document's `uniqueItems` may list.
const MAX_SEQUENCES: usize = 2_000;
/// Values of a schema that are looked through for equal ones.
const MAX_LISTED: usize = 256;
/// References that are followed in a row.
const MAX_REFERENCES: usize = 8;

impl<'a> Rewriter<'a> {
    /// `uniqueItems`: enforced for items of a few values, by listing the arrays.
    pub(super) fn write_unique_items(
        &mut self,
        sent: Keywords<'a>,
        out: &mut Map<String, Value>,
    ) -> Result<(), String> {
        let max = sent.max_items().and_then(Value::as_u64);
        if sent.unique_items() != Some(&Value::Bool(true)) || max.is_some_and(|max| max < 2) {
            return Ok(());
        }
        let alone = !sent.has_any(&["enum", "const", "prefixItems", "additionalItems", "contains"]);
        let is_array = sent.types().is_some_and(|types| types == "array");
        let items = sent.items().filter(|_| alone && is_array);
        let values = items.map_or(Ok(None), |items| self.listed_values(items))?;
        let Some(values) = values else {
            return self.leave_out(Keyword::UniqueItems);
        };
        let min = sent.min_items().and_then(Value::as_u64).unwrap_or(0);
        let longest = max.map_or(values.len(), |max| values.len().min(max as usize));
        if values.len() <= MAX_UNIQUE {
            let each = values.iter().map(|value| size(value)).sum::<usize>();
            self.spend(each.saturating_mul(count_arrangements(values.len(), longest)))?;
            let arrays = arrangements(&values, longest);
            self.sequences += arrays.len();
            if self.sequences <= MAX_SEQUENCES {
                let fits = |array: &Vec<Value>| array.len() as u64 >= min;
                let arrays: Vec<Value> =
                    arrays.into_iter().filter(fits).map(Value::Array).collect();
                set(out, "enum", arrays);
                return Ok(());
            }
        }
        self.leave_out(Keyword::UniqueItems)?;
        set(out, "maxItems", longest);
        Ok(())
    }

    /// The values that a schema lists, each once; `None` if it does not, or they cannot be compared by spelling.
    fn listed_values(&mut self, sent: &'a Value) -> Result<Option<Vec<&'a Value>>, String> {
        static BOOLEANS: [Value; 2] = [Value::Bool(true), Value::Bool(false)];
        let mut schema = Keywords::of(sent);
        for _ in 0..MAX_REFERENCES {
            let Some(reference) = schema.and_then(Keywords::target) else { break };
            schema = self.resolve(reference)?.and_then(Keywords::of);
        }
        let Some(schema) = schema else { return Ok(None) };
        let all = match (schema.listed(), schema.enumeration(), schema.types()) {
            (Some(all), ..) => all,
            (None, None, Some(kind)) if kind == "boolean" => BOOLEANS.as_slice(),
            _ => return Ok(None),
        };
        // Numbers of different spellings may be equal.
        let plain = |value: &Value| match value {
            Value::Array(_) | Value::Object(_) => false,
            Value::Number(number) => number.is_i64(),
            _ => true,
        };
        if all.len() > MAX_LISTED || !all.iter().all(plain) {
            return Ok(None);
        }
        self.spend(all.iter().map(size).sum())?;
        let mut seen = HashSet::new();
        Ok(Some(all.iter().filter(|value| seen.insert(*value)).collect()))
    }
}

/// The number of arrays that [`arrangements`] makes of so many values.
fn count_arrangements(values: usize, longest: usize) -> usize {
    let mut of_length = 1;
    let each = (0..longest.min(values)).map(|length| {
        of_length *= values - length;
        of_length
    });
    1 + each.sum::<usize>()
}

/// Arrays of different values, up to a length.
fn arrangements(values: &[&Value], longest: usize) -> Vec<Vec<Value>> {
    let mut all: Vec<Vec<Value>> = vec![Vec::new()];
    let mut from = 0;
    for _ in 0..longest {
        let to = all.len();
        for at in from..to {
            for &value in values {
                if !all[at].contains(value) {
                    let mut longer = all[at].clone();
                    longer.push(value.clone());
                    all.push(longer);
                }
            }
        }
        from = to;
    }
    all
}
