//! What an entry of a table holds, and what flags and the example file know of it.

use std::fmt;
use std::ops::RangeInclusive;

use clap::ValueEnum;
use clap::builder::PossibleValue;
use serde::Serialize;
use toml::Value;

/// A section of the configuration file.
#[derive(Debug)]
pub(super) struct Section {
    /// Its name, between brackets in the file.
    pub(super) name: &'static str,
    /// Its documentation, a line each.
    pub(super) about: &'static [&'static str],
    /// Its settings.
    pub(super) settings: Vec<Description>,
}

/// A setting, without its type.
#[derive(Debug)]
pub(super) struct Description {
    /// The field's name, which is the key in the file.
    pub(super) name: &'static str,
    /// Its documentation, a line each.
    pub(super) docs: &'static [&'static str],
    /// The default value.
    pub(super) default: Value,
    /// What the example file shows instead of the default.
    pub(super) example: Option<Value>,
    /// Flags that set it.
    pub(super) flags: Vec<Flag>,
}

/// A flag that sets a setting.
#[derive(Debug, Clone)]
pub(super) struct Flag {
    /// As in a usage text: `-c --ctx-size <TOKENS>`. Long names after the first are aliases.
    pub(super) usage: &'static str,
    /// What the flag takes.
    pub(super) takes: FlagValue,
}

/// What a flag takes.
#[derive(Debug, Clone)]
pub(super) enum FlagValue {
    /// One value.
    Text,
    /// A path, not empty.
    File,
    /// One of these values.
    Choice(Vec<PossibleValue>),
    /// A value each time it is given.
    List,
    /// Nothing: it sets `value`, and has a help of its own.
    Nothing { value: Value, help: &'static str },
}

/// A check of a value; an error says what is wrong with it.
type Check<T> = Box<dyn Fn(&T) -> Result<(), String>>;

/// An entry of a table.
pub(super) struct Setting<T> {
    /// The field's name, which is the key in the file.
    pub(super) name: &'static str,
    docs: &'static [&'static str],
    default: T,
    example: Option<T>,
    flags: Vec<Flag>,
    checks: Vec<Check<T>>,
}

impl<T> Setting<T> {
    /// An entry without flags that accepts every value of its type.
    pub(super) fn new(name: &'static str, docs: &'static [&'static str], default: T) -> Self {
        let (flags, checks) = (Vec::new(), Vec::new());
        Self { name, docs, default, example: None, flags, checks }
    }

    /// Refuses values outside of `range`.
    pub(super) fn range(self, range: RangeInclusive<T>) -> Self
    where
        T: PartialOrd + fmt::Display + 'static,
    {
        self.check(move |value| match range.contains(value) {
            true => Ok(()),
            false => Err(format!("{value} is not between {} and {}", range.start(), range.end())),
        })
    }

    /// Refuses values for which `check` returns an error.
    pub(super) fn check(mut self, check: impl Fn(&T) -> Result<(), String> + 'static) -> Self {
        self.checks.push(Box::new(check));
        self
    }

    fn add(mut self, usage: &'static str, takes: FlagValue) -> Self {
        self.flags.push(Flag { usage, takes });
        self
    }

    /// Adds a flag with a value: `-c --ctx-size <TOKENS>`. Long names after the first are aliases.
    pub(super) fn flag(self, usage: &'static str) -> Self {
        self.add(usage, FlagValue::Text)
    }

    /// Adds a flag whose value is a file's path: `--store "$UNSET"` is an error, not the default.
    pub(super) fn file(self, usage: &'static str) -> Self {
        self.add(usage, FlagValue::File)
    }

    /// Adds a flag whose value is one of the type's variants, which its help lists.
    pub(super) fn choice(self, usage: &'static str) -> Self
    where
        T: ValueEnum,
    {
        let variants = T::value_variants().iter();
        let choices = variants.filter_map(ValueEnum::to_possible_value).collect();
        self.add(usage, FlagValue::Choice(choices))
    }

    /// Adds a flag that may be given several times, once for each value of a list.
    pub(super) fn list(self, usage: &'static str) -> Self {
        self.add(usage, FlagValue::List)
    }

    /// Adds a flag without a value that sets `value`.
    pub(super) fn switch(
        self,
        usage: &'static str,
        value: impl Into<Value>,
        help: &'static str,
    ) -> Self {
        self.add(usage, FlagValue::Nothing { value: value.into(), help })
    }

    /// Shows `value` instead of the default in the example file.
    pub(super) fn example(mut self, value: T) -> Self {
        self.example = Some(value);
        self
    }

    /// Runs the checks.
    ///
    /// # Errors
    /// What is wrong with `value`.
    pub(super) fn accepts(&self, value: &T) -> Result<(), String> {
        self.checks.iter().try_for_each(|check| check(value))
    }

    /// The entry without its type.
    pub(super) fn describe(self) -> Description
    where
        T: Serialize,
    {
        // Settings are texts, numbers, booleans and lists of these: TOML has them all.
        let toml = |value: &T| Value::try_from(value).unwrap_or(Value::String(String::new()));
        Description {
            name: self.name,
            docs: self.docs,
            default: toml(&self.default),
            example: self.example.as_ref().map(toml),
            flags: self.flags,
        }
    }
}
