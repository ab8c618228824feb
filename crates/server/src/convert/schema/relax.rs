//! Keywords that the grammar compiler does not know: each is said in others where that means the
//! same, or it is left out, which allows more, and noted.

use std::collections::HashSet;

use forebay_chat::{Draft, is_any};
use serde_json::{Map, Value, json};

use super::Enforcement;
use super::disjoint::TooMany;
use super::formats::{Format, format};
use super::not_enforced::Keyword;
use super::rewrite::{Part, Rewriter, also, alternatives};

/// Properties on which others depend that are written as alternatives: each doubles them.
const MAX_DEPENDENCIES: usize = 4;
/// Alternatives times properties that dependencies may make.
const MAX_DEPENDENT: usize = 1_024;
/// Values of which the items of an array are to be different: of five there are 326 arrays.
const MAX_UNIQUE: usize = 5;
/// Arrays that a document's `uniqueItems` may make.
const MAX_SEQUENCES: usize = 2_000;
/// Schemas of a `oneOf` that each require another property.
const MAX_EXCLUSIVE: usize = 32;

impl<'a> Rewriter<'a> {
    /// Reads what is not copied; `part` is what the schema says of a value, `inner` what its members
    /// say.
    pub(super) fn relax(
        &mut self,
        sent: &'a Map<String, Value>,
        (part, inner): (Part, Part),
        depth: usize,
        out: &mut Map<String, Value>,
    ) -> Result<(), String> {
        self.text(sent, out)?;
        self.unique_items(sent, out)?;
        if let Some(not) = sent.get("not") {
            self.not(not, sent, out)?;
        }
        self.dependencies(sent, depth, out)?;
        if self.references.draft() >= Draft::Draft6 {
            if let Some(names) = sent.get("propertyNames") {
                self.property_names(names, sent, inner, out)?;
            }
            // None need be contained, and there may be any number of them.
            let says_nothing = self.references.draft() >= Draft::Draft201909
                && sent.get("minContains") == Some(&json!(0))
                && !sent.contains_key("maxContains");
            if sent.contains_key("contains") && !says_nothing {
                self.cannot(Keyword::Contains)?;
            }
        }
        let is_branched = sent.contains_key("then") || sent.contains_key("else");
        if self.references.draft() >= Draft::Draft7 && sent.contains_key("if") && is_branched {
            self.cannot(Keyword::If)?;
        }
        if self.references.draft() >= Draft::Draft201909 {
            self.unevaluated(sent, (part, inner), out)?;
        }
        Ok(())
    }

    /// `oneOf` says that exactly one schema matches. Where no two of them can, that is `anyOf`.
    pub(super) fn one_of(
        &mut self,
        sent: &'a Map<String, Value>,
        inner: Part,
        mut written: Value,
        out: &mut Map<String, Value>,
    ) -> Result<(), String> {
        let Some(Value::Array(options)) = sent.get("oneOf") else {
            out.insert("oneOf".to_owned(), written);
            return Ok(());
        };
        if !exclude_others(options, &mut written) {
            let disjoint = match self.comparer.are_disjoint(options, sent, inner == Part::Whole) {
                Err(TooMany) if self.enforcement == Enforcement::Strict => {
                    return Err(TooMany::why());
                }
                Err(TooMany) => false,
                Ok(disjoint) => disjoint,
            };
            if !disjoint && self.enforcement == Enforcement::Strict {
                return Err("'oneOf' is only possible where no two of its schemas can match the \
                            same value, such as by a property with different 'const' values"
                    .to_owned());
            }
            if !disjoint {
                self.not_enforced.add(Keyword::OneOf);
            }
        }
        alternatives(out, written);
        Ok(())
    }

    /// `format` and `pattern`.
    fn text(
        &mut self,
        sent: &'a Map<String, Value>,
        out: &mut Map<String, Value>,
    ) -> Result<(), String> {
        if !allows(sent, "string") {
            return Ok(());
        }
        match sent.get("pattern") {
            None => {}
            Some(Value::String(pattern)) => {
                if let Some(pattern) = self.expression(pattern, Keyword::Pattern)? {
                    out.insert("pattern".to_owned(), pattern.into());
                }
            }
            Some(_) => return Err("its 'pattern' is no text".to_owned()),
        }
        let name = match sent.get("format") {
            None => return Ok(()),
            Some(Value::String(name)) => name,
            Some(_) => return Err("its 'format' is no text".to_owned()),
        };
        match format(name) {
            Format::Unknown if self.enforcement == Enforcement::Strict => {
                return Err(format!("unknown format: {}", crate::error::shown(name)));
            }
            Format::Unknown => self.not_enforced.add(Keyword::Format),
            Format::Known => {
                out.insert("format".to_owned(), name.clone().into());
            }
            Format::Pattern(pattern) if out.contains_key("pattern") => {
                also(out, json!({"type": "string", "pattern": pattern}));
            }
            Format::Pattern(pattern) => {
                out.insert("pattern".to_owned(), pattern.into());
            }
        }
        Ok(())
    }

    /// Items that all differ: enforced where they are of a few values, by writing out the arrays.
    fn unique_items(
        &mut self,
        sent: &'a Map<String, Value>,
        out: &mut Map<String, Value>,
    ) -> Result<(), String> {
        let most = sent.get("maxItems").and_then(Value::as_u64);
        if sent.get("uniqueItems") != Some(&Value::Bool(true)) || most.is_some_and(|most| most < 2)
        {
            return Ok(());
        }
        let alone = !["enum", "const", "prefixItems", "additionalItems", "contains"]
            .iter()
            .any(|key| sent.contains_key(*key));
        let values =
            sent.get("items").filter(|_| alone && sent.get("type") == Some(&json!("array")));
        let values = values.map_or(Ok(None), |items| self.values(items))?;
        let Some(values) = values else {
            return self.cannot(Keyword::UniqueItems);
        };
        let least = sent.get("minItems").and_then(Value::as_u64).unwrap_or(0);
        let longest = most.map_or(values.len(), |most| values.len().min(most as usize));
        if values.len() <= MAX_UNIQUE {
            let each = values.iter().map(|value| size(value)).sum::<usize>();
            self.spend(each.saturating_mul(count_arrangements(values.len(), longest)))?;
            let arrays = arrangements(&values, longest);
            self.sequences += arrays.len();
            if self.sequences <= MAX_SEQUENCES {
                let fits = |array: &Vec<Value>| array.len() as u64 >= least;
                let arrays: Vec<Value> =
                    arrays.into_iter().filter(fits).map(Value::Array).collect();
                out.insert("enum".to_owned(), Value::Array(arrays));
                return Ok(());
            }
        }
        self.cannot(Keyword::UniqueItems)?;
        out.insert("maxItems".to_owned(), longest.into());
        Ok(())
    }

    /// The values that a schema allows, where it lists them; each once.
    fn values(&mut self, sent: &'a Value) -> Result<Option<Vec<&'a Value>>, String> {
        static BOOLEANS: [Value; 2] = [Value::Bool(true), Value::Bool(false)];
        let mut schema = sent.as_object();
        for _ in 0..8 {
            let reference = schema.and_then(|schema| schema.get("$ref")).and_then(Value::as_str);
            let Some(reference) = reference else { break };
            schema = self.find(reference)?.and_then(Value::as_object);
        }
        let Some(schema) = schema else { return Ok(None) };
        let all = match (schema.get("const"), schema.get("enum"), schema.get("type")) {
            (Some(value), ..) => std::slice::from_ref(value),
            (None, Some(Value::Array(all)), _) => all.as_slice(),
            (None, None, Some(kind)) if kind == "boolean" => BOOLEANS.as_slice(),
            _ => return Ok(None),
        };
        // Numbers of different spellings may be equal.
        let plain = |value: &Value| match value {
            Value::Array(_) | Value::Object(_) => false,
            Value::Number(number) => number.is_i64(),
            _ => true,
        };
        if all.len() > 256 || !all.iter().all(plain) {
            return Ok(None);
        }
        self.spend(all.iter().map(size).sum())?;
        let mut seen = HashSet::new();
        Ok(Some(all.iter().filter(|value| seen.insert(*value)).collect()))
    }

    /// `not`, where it forbids properties, values or a type by name.
    fn not(
        &mut self,
        not: &'a Value,
        sent: &'a Map<String, Value>,
        out: &mut Map<String, Value>,
    ) -> Result<(), String> {
        if *not == Value::Bool(false) {
            return Ok(());
        }
        if let Some(groups) = forbidden(not) {
            for names in groups {
                self.spend(names.len())?;
                let absent = |name: &&str| json!({"properties": {*name: false}});
                let mut forbids = match names.as_slice() {
                    [name] => absent(name),
                    names => json!({"anyOf": names.iter().map(absent).collect::<Vec<_>>()}),
                };
                if not.get("type").is_none() {
                    // `required` is true of what is no object, and so `not` is wrong of it.
                    forbids["type"] = "object".into();
                }
                also(out, forbids);
            }
            return Ok(());
        }
        if let Some(types) = other_types(not, sent) {
            out.insert("type".to_owned(), types);
            return Ok(());
        }
        let values = not.get("enum").and_then(Value::as_array).cloned();
        let values = values.or_else(|| not.get("const").map(|value| vec![value.clone()]));
        if let (Some(values), Some(Value::Array(all)), 1) =
            (values, out.get_mut("enum"), not.as_object().map_or(0, Map::len))
            && sent.get("enum").is_some()
        {
            self.spend(all.len().saturating_mul(values.iter().map(size).sum()))?;
            all.retain(|value| !values.iter().any(|other| are_equal(value, other)));
            return Ok(());
        }
        self.cannot(Keyword::Not)
    }

    /// Properties on which others depend: they are missing, or the others are there.
    fn dependencies(
        &mut self,
        sent: &'a Map<String, Value>,
        depth: usize,
        out: &mut Map<String, Value>,
    ) -> Result<(), String> {
        let mut written = Vec::new();
        for (key, keyword) in [
            ("dependencies", Keyword::Dependencies),
            ("dependentRequired", Keyword::DependentRequired),
            ("dependentSchemas", Keyword::DependentSchemas),
        ] {
            let known = key == "dependencies" || self.references.draft() >= Draft::Draft201909;
            let Some(Value::Object(all)) = sent.get(key).filter(|_| known) else { continue };
            let properties = sent.get("properties").and_then(Value::as_object).map_or(0, Map::len);
            let bears = |below: &Value| !matches!(below, Value::Array(names) if names.is_empty());
            let count = written.len() + all.values().filter(|below| bears(below)).count();
            if count > MAX_DEPENDENCIES || (1 << count) * (1 + properties) > MAX_DEPENDENT {
                self.cannot(keyword)?;
                continue;
            }
            for (name, below) in all.iter().filter(|(_, below)| bears(below)) {
                let needs = match below {
                    Value::Array(_) => json!({"required": below}),
                    schema => self.schema(schema, Part::Member, depth + 1)?,
                };
                written.push(json!({"anyOf": [{"properties": {name.as_str(): false}}, needs]}));
            }
        }
        written.into_iter().for_each(|one| also(out, one));
        Ok(())
    }

    /// What names a map's properties have: said by properties, or by an expression for them.
    fn property_names(
        &mut self,
        names: &'a Value,
        sent: &'a Map<String, Value>,
        inner: Part,
        out: &mut Map<String, Value>,
    ) -> Result<(), String> {
        let Some(names) = names.as_object() else {
            return if *names == Value::Bool(true) {
                Ok(())
            } else {
                self.cannot(Keyword::PropertyNames)
            };
        };
        let says =
            |key: &&String| !matches!(key.as_str(), "type" | "title" | "description" | "$comment");
        let keys: Vec<&str> = names.keys().filter(says).map(String::as_str).collect();
        if keys.is_empty() {
            return Ok(());
        }
        let is_map = !["properties", "patternProperties"].iter().any(|key| sent.contains_key(*key));
        if inner == Part::Member || !is_map || keys.len() > 1 {
            return self.cannot(Keyword::PropertyNames);
        }
        let value = out.get("additionalProperties").cloned().unwrap_or(Value::Bool(true));
        match (keys[0], &names[keys[0]]) {
            ("pattern", Value::String(pattern)) => {
                let Some(pattern) = self.expression(pattern, Keyword::PropertyNames)? else {
                    return Ok(());
                };
                out.insert("patternProperties".to_owned(), json!({pattern: value}));
            }
            ("enum", Value::Array(all)) if all.len() <= 64 && all.iter().all(Value::is_string) => {
                // Each name gets a copy, and such schemas may be nested.
                self.spend(size(&value).saturating_mul(all.len()))?;
                let each = all.iter().filter_map(Value::as_str);
                let properties: Map<String, Value> =
                    each.map(|name| (name.to_owned(), value.clone())).collect();
                out.insert("properties".to_owned(), Value::Object(properties));
            }
            _ => return self.cannot(Keyword::PropertyNames),
        }
        out.insert("additionalProperties".to_owned(), Value::Bool(false));
        Ok(())
    }

    /// What no other keyword has evaluated: what closing leaves out, or noted.
    fn unevaluated(
        &mut self,
        sent: &'a Map<String, Value>,
        (part, inner): (Part, Part),
        out: &mut Map<String, Value>,
    ) -> Result<(), String> {
        if sent.get("unevaluatedItems").is_some_and(|items| !is_any(items)) {
            self.cannot(Keyword::UnevaluatedItems)?;
        }
        match sent.get("unevaluatedProperties") {
            None => Ok(()),
            Some(value) if is_any(value) => Ok(()),
            Some(Value::Bool(false)) if inner == Part::Whole => {
                out.entry("additionalProperties").or_insert(Value::Bool(false));
                Ok(())
            }
            Some(Value::Bool(false)) if part == Part::Whole => Ok(()),
            Some(_) => self.cannot(Keyword::UnevaluatedProperties),
        }
    }

    /// How many properties an object has. That no name comes twice cannot be enforced where names
    /// are free, so only those that have names of their own are counted.
    pub(super) fn count_properties(
        &mut self,
        sent: &'a Map<String, Value>,
        out: &mut Map<String, Value>,
    ) -> Result<(), String> {
        let (mut least, mut most) =
            (number(sent, "minProperties")?, number(sent, "maxProperties")?);
        let names = |key: &str| sent.get(key).and_then(Value::as_array).into_iter().flatten();
        let required: HashSet<&str> = names("required").filter_map(Value::as_str).collect();
        let count = required.len() as u64;
        let properties = out.get("properties").and_then(Value::as_object);
        let named: Vec<&String> = properties
            .into_iter()
            .flatten()
            .filter(|(_, schema)| **schema != Value::Bool(false))
            .map(|(name, _)| name)
            .collect();
        let grouped = ["$ref", "allOf", "anyOf"].iter().any(|key| out.contains_key(*key));
        let closed = out.get("additionalProperties") == Some(&Value::Bool(false))
            && !out.contains_key("patternProperties");
        least = least.filter(|least| *least > count);
        most = most.filter(|most| grouped || !closed || (named.len() as u64) > *most);
        if least.is_none() && most.is_none() {
            return Ok(());
        }
        let optional = named.iter().any(|name| !required.contains(name.as_str()));
        let fits = match optional {
            false => least <= Some(count.max(1)),
            // What the compiler knows: one of those that are optional.
            true => {
                closed
                    && least.is_none_or(|least| least == count + 1)
                    && most.is_none_or(|most| most == count + 1)
            }
        };
        if self.enforcement == Enforcement::Strict && !fits && least > Some(count.max(1)) {
            return Err("'minProperties' of more than one is only possible where as many are \
                        required"
                .to_owned());
        }
        if self.enforcement != Enforcement::Strict && (grouped || !fits || named.len() > 64) {
            least.iter().for_each(|_| self.not_enforced.add(Keyword::MinProperties));
            most.iter().for_each(|_| self.not_enforced.add(Keyword::MaxProperties));
            return Ok(());
        }
        for (key, value) in [("minProperties", least), ("maxProperties", most)] {
            if let Some(value) = value {
                out.insert(key.to_owned(), value.into());
            }
        }
        Ok(())
    }
}

fn number(sent: &Map<String, Value>, key: &str) -> Result<Option<u64>, String> {
    let no_number = || format!("its '{key}' is no whole number");
    sent.get(key).map(|value| value.as_u64().ok_or_else(no_number)).transpose()
}

/// Whether a schema allows values of a type.
fn allows(sent: &Map<String, Value>, kind: &str) -> bool {
    match sent.get("type") {
        Some(Value::String(one)) => one == kind,
        Some(Value::Array(all)) => all.iter().any(|one| one == kind),
        _ => true,
    }
}

/// The groups of properties of which a `not` forbids each: all of a group are not there together.
fn forbidden(not: &Value) -> Option<Vec<Vec<&str>>> {
    let map = not.as_object()?;
    let untyped = |one: &Value| one.get("type").is_none();
    match (map.get("anyOf"), map.get("allOf")) {
        (Some(Value::Array(all)), None) if map.len() == 1 && all.len() <= MAX_EXCLUSIVE => {
            all.iter().map(|one| requires(one).filter(|_| untyped(one))).collect()
        }
        (None, Some(Value::Array(all))) if map.len() == 1 && all.iter().all(untyped) => {
            let names: Option<Vec<_>> = all.iter().map(requires).collect();
            Some(vec![names?.concat()])
        }
        _ => Some(vec![requires(not)?]),
    }
    .filter(|groups| groups.iter().all(|names| (1..=MAX_DEPENDENCIES).contains(&names.len())))
}

/// The types that are left by a `not` that forbids one.
fn other_types(not: &Value, sent: &Map<String, Value>) -> Option<Value> {
    const TYPES: [&str; 6] = ["null", "boolean", "number", "string", "array", "object"];
    let map = not.as_object().filter(|map| map.len() == 1)?;
    let without = map.get("type")?.as_str().filter(|name| TYPES.contains(name))?;
    let left = |name: &str| name != without && (without != "number" || name != "integer");
    let types: Vec<&str> = match sent.get("type") {
        None => TYPES.to_vec(),
        Some(Value::String(one)) => vec![one],
        Some(all) => all.as_array()?.iter().map(Value::as_str).collect::<Option<_>>()?,
    };
    let types: Vec<&str> = types.into_iter().filter(|name| left(name)).collect();
    (!types.is_empty()).then(|| json!(types))
}

/// The names that a schema requires, where it says nothing else.
fn requires(schema: &Value) -> Option<Vec<&str>> {
    let map = schema.as_object()?;
    let says_no_more = |key: &String| match key.as_str() {
        "required" | "title" | "description" | "$comment" => true,
        "type" => map["type"] == "object",
        _ => false,
    };
    let names = map.get("required")?.as_array().filter(|_| map.keys().all(says_no_more))?;
    names.iter().map(Value::as_str).collect()
}

/// The same where it is one.
fn requires_one(schema: &Value) -> Option<&str> {
    requires(schema).filter(|names| names.len() == 1).map(|names| names[0])
}

/// Where each schema of a `oneOf` requires a property of its own and says nothing else, each
/// forbids those of the others. Whether that is so.
fn exclude_others(sent: &[Value], written: &mut Value) -> bool {
    if !(2..=MAX_EXCLUSIVE).contains(&sent.len()) {
        return false;
    }
    let names: Option<Vec<&str>> = sent.iter().map(requires_one).collect();
    let (Some(names), Value::Array(written)) = (names, written) else { return false };
    if names.iter().enumerate().any(|(at, name)| names[..at].contains(name)) {
        return false;
    }
    for (option, own) in written.iter_mut().zip(&names) {
        for other in names.iter().filter(|name| *name != own) {
            option["properties"][*other] = Value::Bool(false);
        }
        // Of what is no object all of them are true.
        option["type"] = "object".into();
    }
    true
}

/// About what copying a value costs, in steps: its parts, and the bytes of its strings. Values that clients
/// send are at most 128 levels deep.
pub(super) fn size(value: &Value) -> usize {
    match value {
        Value::Array(all) => 1 + all.iter().map(size).sum::<usize>(),
        Value::Object(map) => {
            1 + map.iter().map(|(name, value)| name.len() / 64 + size(value)).sum::<usize>()
        }
        Value::String(text) => 1 + text.len() / 64,
        _ => 1,
    }
}

/// Whether two values are equal as JSON Schema has it: 1 and 1.0 are.
fn are_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| are_equal(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| are_equal(a, b)))
        }
        _ => a == b,
    }
}

/// How many arrays [`arrangements`] makes of so many values.
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
