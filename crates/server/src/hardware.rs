//! The devices, and where a model's parts would go.

use std::fmt::Write as _;

use forebay_engine::Source;
use forebay_engine::placement::format_bytes;

use crate::config::Settings;
use crate::registry::model_config;

/// The devices that can compute, a line each.
pub(crate) fn devices() -> String {
    let mut out = String::new();
    for device in forebay_engine::devices() {
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "  {} ({}): {} free of {}",
            device.name,
            device.description,
            format_bytes(device.memory_free as u64),
            format_bytes(device.memory_total as u64)
        );
    }
    out
}

/// Which parts of each configured model would go on which device. `gibibytes`: GPUs' memory, instead of the
/// machine's GPUs.
///
/// # Errors
/// If a file cannot be read, or no model is configured.
pub(crate) fn fit(settings: &Settings, gibibytes: &[f64]) -> Result<String, String> {
    if settings.models.is_empty() {
        return Err("which model? Give --model FILE.gguf".to_owned());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "sizes of memory")]
    let memory: Vec<u64> = gibibytes.iter().map(|gib| (gib * f64::from(1 << 30)) as u64).collect();
    let mut out = String::new();
    for model in &settings.models {
        let config = model_config(model, Source::Gguf(model.path.clone()));
        let text = forebay_engine::explain_placement(&model.path, &config, &memory);
        let text = text.map_err(|error| error.to_string())?;
        let _ = writeln!(out, "{}\n{text}", model.path.display());
    }
    if memory.is_empty() {
        out.push_str("devices:\n");
        out.push_str(&devices());
    }
    Ok(out)
}

/// The configured models, and the devices.
pub(crate) fn list(settings: &Settings) -> String {
    let mut out = String::new();
    for model in &settings.models {
        let size = match std::fs::metadata(&model.path) {
            Ok(file) => format!("{:.1} MB", mega(file.len())),
            Err(error) => error.to_string(),
        };
        let names: Vec<&str> = model.names().collect();
        let _ = writeln!(out, "{}\n  {} ({size})", names.join(", "), model.path.display());
    }
    if settings.models.is_empty() {
        out.push_str("no models are configured\n");
    }
    out.push_str("\ndevices:\n");
    out.push_str(&devices());
    let _ = writeln!(out, "\nllama.cpp: {}", forebay_engine::system_info());
    out
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
