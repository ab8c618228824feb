//! `minProperties` and `maxProperties`: bounds of the number of named properties.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::build::set;
use super::enforcement::Enforcement;
use super::keywords::Keywords;
use super::not_enforced::Keyword;
use super::rewriter::Rewriter;

impl<'a> Rewriter<'a> {
    /// `minProperties` and `maxProperties`. Free names may be repeated, so only named properties are counted.
    pub(super) fn count_properties(
        &mut self,
        sent: Keywords<'a>,
        out: &mut Map<String, Value>,
    ) -> Result<(), String> {
        let mut min = whole_number("minProperties", sent.min_properties())?;
        let mut max = whole_number("maxProperties", sent.max_properties())?;
        let required: HashSet<&str> =
            sent.required_names().iter().filter_map(Value::as_str).collect();
        let count = required.len() as u64;
        let written = Keywords::new(out);
        let named: Vec<&String> = written
            .properties()
            .into_iter()
            .flatten()
            .filter(|(_, schema)| **schema != Value::Bool(false))
            .map(|(name, _)| name)
            .collect();
        let grouped = written.has_any(&["$ref", "allOf", "anyOf"]);
        let closed = written.additional_properties() == Some(&Value::Bool(false))
            && !written.has("patternProperties");
        min = min.filter(|min| *min > count);
        max = max.filter(|max| grouped || !closed || (named.len() as u64) > *max);
        if min.is_none() && max.is_none() {
            return Ok(());
        }
        let optional = named.iter().any(|name| !required.contains(name.as_str()));
        let fits = match optional {
            false => min <= Some(count.max(1)),
            // The compiler supports one of the optional properties.
            true => {
                closed
                    && min.is_none_or(|min| min == count + 1)
                    && max.is_none_or(|max| max == count + 1)
            }
        };
        if self.enforcement == Enforcement::Strict && !fits && min > Some(count.max(1)) {
            return Err("'minProperties' of more than one is only possible where as many are \
                        required"
                .to_owned());
        }
        if self.enforcement != Enforcement::Strict && (grouped || !fits || named.len() > 64) {
            min.iter().for_each(|_| self.not_enforced.add(Keyword::MinProperties));
            max.iter().for_each(|_| self.not_enforced.add(Keyword::MaxProperties));
            return Ok(());
        }
        for (key, value) in [("minProperties", min), ("maxProperties", max)] {
            if let Some(value) = value {
                set(out, key, value);
            }
        }
        Ok(())
    }
}

fn whole_number(keyword: &str, value: Option<&Value>) -> Result<Option<u64>, String> {
    let not_whole = || format!("its '{keyword}' is no whole number");
    value.map(|value| value.as_u64().ok_or_else(not_whole)).transpose()
}
