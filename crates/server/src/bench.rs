//! `forebay bench`: the engine's own limit, without HTTP.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use forebay_engine::{
    CostPlan, CostTable, Embedder, Engine, Event, GenerateRequest, ModelHandle, ParseSpecial,
    SamplingParams, Source, StepPart, StopRules, Token, Vocab, load, measure_costs,
};
use serde::Serialize as _;
use serde_json::ser::Formatter;

use crate::config::{GpuLayersSetting, KvLayoutSetting, ModelSettings};
use crate::registry::model_config;

/// A text to cut prompts from.
const TEXT: &str = "A forebay is the pool in front of a mill or a turbine: water from a long canal \
    gathers there, calms down, and leaves in just the stream that the machine can take. ";

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// GGUF file to measure.
    #[arg(short, long, value_name = "FILE")]
    model: PathBuf,
    /// Answers generated (or texts embedded) at the same time.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = range(1..=256))]
    streams: u32,
    /// Tokens of each prompt or text.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = range(1..=1 << 24))]
    prompt_tokens: u32,
    /// Tokens of each answer.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = range(1..=1 << 24))]
    tokens: u32,
    /// Sampling temperature; 0 takes the likeliest token.
    #[arg(long, value_name = "T", default_value_t = 0.7)]
    temperature: f32,
    /// Rounds; the median counts.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = range(1..=1000))]
    rounds: u32,
    /// KV cache over all slots, in tokens.
    #[arg(short = 'c', long, value_name = "TOKENS", value_parser = range(1..=1 << 24))]
    ctx_size: Option<u32>,
    /// Tokens of one step (of one pass, for embeddings).
    #[arg(short, long, value_name = "TOKENS", value_parser = range(1..=1 << 16))]
    batch_size: Option<u32>,
    /// CPU threads.
    #[arg(short, long, value_name = "N", value_parser = range(1..=4096))]
    threads: Option<u32>,
    /// Layers to put on GPUs: a number, "all", or "auto" for as many as fit.
    #[arg(long, value_name = "N", default_value_t, allow_negative_numbers = true)]
    gpu_layers: GpuLayersSetting,
    /// How sequences lie in the KV cache.
    #[arg(long, value_enum, default_value = "auto")]
    kv_layout: KvLayoutSetting,
    /// Measure what decode calls cost over rows, chunks and depths, and write that to a file.
    #[arg(long, value_name = "FILE")]
    costs: Option<PathBuf>,
    /// With --costs: the largest depth, in tokens that a sequence has before a call.
    #[arg(long, value_name = "TOKENS", default_value_t = 8000, requires = "costs", value_parser = range(0..=1 << 24))]
    depth: u32,
    /// With --costs: up to 128 rows and chunks of 2048 tokens, for a GPU.
    #[arg(long, requires = "costs")]
    wide: bool,
    /// With --costs: seconds after which the file is written with what was measured by then.
    #[arg(long, value_name = "SECONDS", requires = "costs")]
    seconds: Option<u64>,
}

/// A parser of numbers in the configuration's range.
fn range(bounds: std::ops::RangeInclusive<i64>) -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(bounds)
}

/// One round's figures.
struct Round {
    per_second: f64,
    ttft: Vec<Duration>,
    gaps: Vec<Duration>,
}

/// Measures and reports.
///
/// # Errors
/// When the model cannot be loaded or cannot run.
pub(crate) fn run(args: &BenchArgs) -> Result<String, String> {
    if let Some(file) = &args.costs {
        return measure_to(file, args);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|e| e.to_string())?.block_on(measure(args))
}

/// Writes a table of costs to a file: JSON, a sample on each line.
fn measure_to(file: &Path, args: &BenchArgs) -> Result<String, String> {
    let mut plan = if args.wide { CostPlan::wide() } else { CostPlan::default() };
    plan.depths.retain(|&depth| depth <= args.depth);
    plan.repeats = args.rounds as usize;
    plan.time_limit = args.seconds.map(Duration::from_secs);
    let settings = ModelSettings {
        parallel: plan.slots(),
        ctx_size: args.ctx_size.unwrap_or(plan.slots() * plan.slot_tokens()),
        ..settings(args)
    };
    // Measuring takes minutes: check first that the result can be written. An older table stays until it is.
    let writable = std::fs::OpenOptions::new().append(true).create(true).open(file);
    drop(writable.map_err(|e| format!("{}: {e}", file.display()))?);
    let config = model_config(&settings, Source::Gguf(args.model.clone()));
    let table = measure_costs(config, plan).map_err(|e| e.to_string())?;
    if table.samples.is_empty() {
        return Err(
            "nothing was measured: more --seconds or a larger --ctx-size is needed".to_owned()
        );
    }
    let text = spell(&table).map_err(|e| e.to_string())?;
    std::fs::write(file, text).map_err(|e| format!("{}: {e}", file.display()))?;
    Ok(format!("{} samples in {}\n", table.samples.len(), file.display()))
}

/// A table as JSON, each sample on a line of its own.
fn spell(table: &CostTable) -> serde_json::Result<Vec<u8>> {
    let mut text = Vec::new();
    table.serialize(&mut serde_json::Serializer::with_formatter(&mut text, LineForEach))?;
    text.push(b'\n');
    Ok(text)
}

/// Writes each element of an array on a line of its own, and nothing else.
struct LineForEach;

impl Formatter for LineForEach {
    fn begin_array_value<W: Write + ?Sized>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        out.write_all(if first { b"\n" } else { b",\n" })
    }

    fn end_array<W: Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b"\n]")
    }
}

fn settings(args: &BenchArgs) -> ModelSettings {
    ModelSettings {
        path: args.model.clone(),
        name: "bench".to_owned(),
        parallel: args.streams,
        ctx_size: args.ctx_size.unwrap_or((args.prompt_tokens + args.tokens + 256) * args.streams),
        threads: args.threads.unwrap_or(0),
        batch_size: args.batch_size.unwrap_or(0),
        gpu_layers: args.gpu_layers,
        kv_layout: args.kv_layout,
        queue: args.streams as usize,
        ..ModelSettings::default()
    }
}

async fn measure(args: &BenchArgs) -> Result<String, String> {
    let settings = settings(args);
    let started = Instant::now();
    let loading = load(model_config(&settings, Source::Gguf(args.model.clone())));
    let loaded = loading.map_err(|e| e.to_string())?.finish().await.map_err(|e| e.to_string())?;
    let mut report = format!(
        "model     {}\nloaded in {:.2} s\n",
        args.model.display(),
        started.elapsed().as_secs_f64()
    );
    let mut rounds = Vec::new();
    for round in 0..=args.rounds {
        let measured = match &loaded {
            ModelHandle::Chat(engine) => generate(engine, args).await?,
            ModelHandle::Embedding(embedder) => embed(embedder, args).await?,
        };
        // The first one warms up.
        if round > 0 {
            rounds.push(measured);
        }
    }
    let unit = if matches!(loaded, ModelHandle::Chat(_)) { "tokens/s" } else { "texts/s" };
    rounds.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
    let median = rounds.get(rounds.len() / 2).ok_or("no rounds")?;
    let each: Vec<String> = rounds.iter().map(|r| format!("{:.1}", r.per_second)).collect();
    let line = |out: &mut String, name: &str, values: &[Duration]| {
        if let Some((p50, p95)) = percentiles(values) {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{name:9} p50 {:.2} ms, p95 {:.2} ms", ms(p50), ms(p95));
        }
    };
    let _ = writeln!(
        report,
        "{unit:9} {:.1} (median of {}; streams: {})",
        median.per_second,
        each.join(", "),
        args.streams
    );
    line(&mut report, "TTFT", &median.ttft);
    line(&mut report, "ITL", &median.gaps);
    if let ModelHandle::Chat(engine) = &loaded {
        let stats = engine.stats();
        let whole = stats.times.total().as_secs_f64().max(1e-9);
        let _ = writeln!(
            report,
            "a step    {:.3} ms ({} steps), of it",
            whole * 1e3 / stats.steps.max(1) as f64,
            stats.steps
        );
        for part in StepPart::ALL {
            let time = stats.times.of(part).as_secs_f64();
            let (share, each) = (100.0 * time / whole, time * 1e3 / stats.steps.max(1) as f64);
            let _ = writeln!(report, "  {:8} {each:.3} ms, {share:.2} %", part.label());
        }
    }
    Ok(report)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn percentiles(values: &[Duration]) -> Option<(Duration, Duration)> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let at = |percent: usize| {
        sorted.get((sorted.len() * percent / 100).min(sorted.len().checked_sub(1)?)).copied()
    };
    Some((at(50)?, at(95)?))
}

/// A prompt of the wanted length, different for each stream.
fn prompt(vocab: &Vocab, tokens: u32, stream: u32) -> Result<Vec<Token>, String> {
    let wanted = tokens as usize;
    let text = format!("{stream}: {}", TEXT.repeat(wanted / 20 + 2));
    let text = vocab.tokenize(&text, ParseSpecial::No).map_err(|e| e.to_string())?;
    let mut prompt = vocab.with_prefix(text);
    prompt.truncate(wanted.max(1));
    Ok(prompt)
}

async fn generate(engine: &Engine, args: &BenchArgs) -> Result<Round, String> {
    let started = Instant::now();
    let mut generations = Vec::new();
    for stream in 0..args.streams {
        let prompt = prompt(engine.vocab(), args.prompt_tokens, stream)?;
        let sampling = SamplingParams::plain(args.temperature, 0);
        let request = GenerateRequest {
            stop: StopRules { ignore_eos: true, ..StopRules::default() },
            ..GenerateRequest::plain(prompt, args.tokens, sampling)
        };
        generations.push(engine.generate(request).map_err(|e| e.to_string())?);
    }
    let (mut ttft, mut gaps, mut total) = (Vec::new(), Vec::new(), 0);
    for mut generation in generations {
        let mut last = None;
        while let Some(event) = generation.next().await {
            match event {
                Event::Delta { .. } => {
                    let at = generation.elapsed();
                    match last.replace(at) {
                        None => ttft.push(at),
                        Some(before) => gaps.push(at.saturating_sub(before)),
                    }
                }
                Event::Finished { tokens, .. } => total += tokens,
                Event::Failed(failure) => return Err(failure.to_string()),
                Event::Started { .. } | Event::Paused | Event::Prompt(_) => {}
            }
        }
    }
    Ok(Round { per_second: f64::from(total) / started.elapsed().as_secs_f64(), ttft, gaps })
}

async fn embed(embedder: &Embedder, args: &BenchArgs) -> Result<Round, String> {
    /// Texts of a round for each stream, so that a round takes long enough to measure.
    const REPEAT: u32 = 16;
    let vocab = embedder.vocab();
    let count = args.streams * REPEAT;
    let input = |i| prompt(vocab, args.prompt_tokens, i).map(|text| vocab.with_markers(text));
    let inputs: Vec<Vec<Token>> = (0..count).map(input).collect::<Result<_, _>>()?;
    let started = Instant::now();
    let vectors = embedder.embed(inputs, None).await.map_err(|e| e.to_string())?;
    vectors.map_err(|e| e.to_string())?;
    Ok(Round {
        per_second: f64::from(count) / started.elapsed().as_secs_f64(),
        ttft: Vec::new(),
        gaps: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was measured before and is replayed by the scheduler's tests.
    const RECORDED: &str = include_str!("../../scheduler/costs/smol-shared.json");

    #[test]
    fn a_table_is_json_with_a_line_for_each_sample() {
        let table: CostTable = serde_json::from_str(RECORDED).unwrap();
        let text = String::from_utf8(spell(&table).unwrap()).unwrap();
        let again: CostTable = serde_json::from_str(&text).unwrap();
        assert_eq!(again, table);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), table.samples.len() + 2, "{text}");
        assert_eq!(lines[1], RECORDED.lines().nth(1).unwrap());
        let empty = CostTable { samples: Vec::new(), ..table };
        let text = spell(&empty).unwrap();
        assert_eq!(serde_json::from_slice::<CostTable>(&text).unwrap(), empty);
    }
}
