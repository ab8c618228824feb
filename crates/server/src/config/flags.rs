//! The command line's layer of settings.

use std::path::PathBuf;

use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use toml::Value;

use super::layers::{LayerValue, Layers, SettingOrigin};
use super::sections::sections;
use super::setting::{Description, Flag, FlagValue};

/// Flags win over the environment (FOREBAY_SERVER__PORT), which wins over the file.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Configuration file; every setting is documented in config/forebay.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// GGUF file to serve, optionally with a name for it. May be given several times.
    #[arg(short, long, value_name = "[NAME=]FILE")]
    model: Vec<String>,
    #[command(flatten)]
    settings: SettingFlags,
}

/// The flags of the tables, as far as they are given.
#[derive(Debug)]
struct SettingFlags(Vec<GivenFlag>);

#[derive(Debug)]
struct GivenFlag {
    /// With its dashes.
    name: &'static str,
    key: String,
    value: LayerValue,
}

impl ConfigArgs {
    /// The layers of file, environment and flags, in this order.
    pub(crate) fn layers(&self, variables: impl Iterator<Item = (String, String)>) -> Layers {
        let mut layers = Layers::default();
        if let Some(path) = &self.config {
            layers.file(path);
        }
        layers.environment(variables);
        if !self.model.is_empty() {
            layers.model_list(&self.model, &SettingOrigin::Flag("--model"));
        }
        for GivenFlag { name, key, value } in &self.settings.0 {
            if key == "model.aliases" && layers.model_count() > 1 {
                layers.error(format!(
                    "{name} needs a single model; several get theirs in the configuration file"
                ));
            }
            layers.set(key, value.clone(), SettingOrigin::Flag(name));
        }
        layers
    }
}

/// Calls `each` for every flag of every table.
fn for_each_flag(mut each: impl FnMut(&'static str, &Description, &Flag)) {
    for section in sections() {
        for setting in &section.settings {
            for flag in &setting.flags {
                each(section.name, setting, flag);
            }
        }
    }
}

impl Flag {
    /// The words of the usage text that begin with `prefix`, without it.
    fn words(&self, prefix: &'static str) -> impl Iterator<Item = &'static str> {
        self.usage.split(' ').filter_map(move |word| word.strip_prefix(prefix))
    }

    /// The first long name, without dashes.
    fn name(&self) -> &'static str {
        self.words("--").next().unwrap_or_default()
    }

    fn argument(&self, setting: &Description) -> Arg {
        let short = self.words("-").find(|word| !word.starts_with('-'));
        let argument = Arg::new(self.name())
            .long(self.name())
            .short(short.and_then(|short| short.chars().next()))
            .visible_aliases(self.words("--").skip(1));
        let value_name = self.words("<").next().map_or("", |name| name.trim_end_matches('>'));
        let with_value = argument.clone().value_name(value_name).allow_negative_numbers(true);
        match &self.takes {
            FlagValue::Text => with_value.help(help(setting)),
            FlagValue::File => {
                with_value.value_parser(NonEmptyStringValueParser::new()).help(help(setting))
            }
            FlagValue::Choice(choices) => with_value
                .value_parser(PossibleValuesParser::new(choices.clone()))
                .help(help(setting)),
            FlagValue::List => with_value
                .action(ArgAction::Append)
                .help(format!("{}. May be given several times", summary(setting))),
            FlagValue::Nothing { help, .. } => argument.action(ArgAction::SetTrue).help(*help),
        }
    }

    /// The value that the command line gives; `None` without the flag.
    fn value(&self, matches: &ArgMatches) -> Option<LayerValue> {
        let name = self.name();
        if matches.value_source(name) != Some(ValueSource::CommandLine) {
            return None;
        }
        let texts = || matches.get_many::<String>(name).into_iter().flatten().cloned();
        match &self.takes {
            FlagValue::Text | FlagValue::File | FlagValue::Choice(_) => {
                texts().next().map(LayerValue::Argument)
            }
            FlagValue::List => {
                Some(LayerValue::Toml(Value::Array(texts().map(Value::String).collect())))
            }
            FlagValue::Nothing { value, .. } => Some(LayerValue::Toml(value.clone())),
        }
    }
}

/// The documentation's first line.
fn summary(setting: &Description) -> &'static str {
    setting.docs.first().map_or("", |line| line.trim().trim_end_matches('.'))
}

/// The documentation's first line, with the default.
fn help(setting: &Description) -> String {
    let summary = summary(setting);
    match &setting.default {
        Value::Array(list) if list.is_empty() => summary.to_owned(),
        Value::String(text) if text.is_empty() => summary.to_owned(),
        Value::String(text) => format!("{summary} [default: {text}]"),
        value => format!("{summary} [default: {value}]"),
    }
}

impl Args for SettingFlags {
    fn augment_args(mut command: Command) -> Command {
        for_each_flag(|_, setting, flag| {
            command = std::mem::take(&mut command).arg(flag.argument(setting));
        });
        command.mut_arg("no-store", |argument| argument.conflicts_with("store"))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Vec::new();
        for_each_flag(|section, setting, flag| {
            if let Some(value) = flag.value(matches) {
                let name = flag.usage.split(' ').find(|word| word.starts_with("--"));
                let key = format!("{section}.{}", setting.name);
                given.push(GivenFlag { name: name.unwrap_or_default(), key, value });
            }
        });
        Ok(Self(given))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
