//! Prometheus metrics: names, buckets, and the handles that requests record into.

use std::time::Duration;

use forebay_engine::ExitCause;
use forebay_engine::{Reuse, Stats, StepPart};
use metrics::{
    Counter, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

const SECONDS: [f64; 17] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    120.0, 300.0,
];
const TOKENS: [f64; 16] =
    [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5];

const TTFT: &str = "forebay_time_to_first_token_seconds";
const ITL: &str = "forebay_inter_token_latency_seconds";
const QUEUE: &str = "forebay_queue_seconds";
const PREFILL: &str = "forebay_prefill_seconds";
const DECODE: &str = "forebay_decode_seconds";
const DURATION: &str = "forebay_request_duration_seconds";
const REQUEST_PROMPT: &str = "forebay_request_prompt_tokens";
const REQUEST_GENERATED: &str = "forebay_request_generation_tokens";
const PROMPT_TOKENS: &str = "forebay_prompt_tokens_total";
const CACHED_TOKENS: &str = "forebay_prompt_tokens_cached_total";
const GENERATION_TOKENS: &str = "forebay_generation_tokens_total";
const FINISHED: &str = "forebay_requests_finished_total";
const REJECTED: &str = "forebay_requests_rejected_total";
const STEP_TIME: &str = "forebay_engine_step_microseconds_total";
const HTTP: &str = "forebay_http_requests_total";

const HISTOGRAMS: [(&str, Unit, &str, &[f64]); 8] = [
    (TTFT, Unit::Seconds, "From a request's arrival at the engine to its first token.", &SECONDS),
    (ITL, Unit::Seconds, "From one token of an answer to the next.", &SECONDS),
    (QUEUE, Unit::Seconds, "From a request's arrival at the engine to its first step.", &SECONDS),
    (PREFILL, Unit::Seconds, "From a request's first step to its first token.", &SECONDS),
    (DECODE, Unit::Seconds, "From an answer's first token to its last.", &SECONDS),
    (DURATION, Unit::Seconds, "From a request's head to the last byte of its response.", &SECONDS),
    (REQUEST_PROMPT, Unit::Count, "Tokens of a request's prompt.", &TOKENS),
    (REQUEST_GENERATED, Unit::Count, "Tokens of an answer.", &TOKENS),
];

/// All metrics of one server.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

/// What gauges show of a loaded model.
#[derive(Debug)]
pub struct ModelSnapshot {
    /// Sequences that can run together.
    pub slots: u32,
    /// The engine's counters.
    pub stats: Stats,
    /// How long the engine's current step has been running.
    pub stalled_for: Option<Duration>,
    /// The id of the engine's process, if it has one of its own.
    pub process: Option<u32>,
}

/// One model's metrics, looked up once.
#[derive(Debug)]
pub struct ModelMetrics {
    pub ttft: Histogram,
    pub itl: Histogram,
    pub queue: Histogram,
    pub prefill: Histogram,
    pub decode: Histogram,
    pub duration: Histogram,
    pub request_prompt: Histogram,
    pub request_generated: Histogram,
    pub prompt_tokens: Counter,
    pub cached_tokens: Counter,
    pub generation_tokens: Counter,
    pub finished_stop: Counter,
    pub finished_length: Counter,
}

impl Metrics {
    /// No counts yet.
    pub fn new() -> Self {
        let builder =
            HISTOGRAMS.iter().fold(PrometheusBuilder::new(), |builder, (name, _, _, buckets)| {
                let named = Matcher::Full((*name).to_owned());
                // It fails only on an empty list of buckets.
                builder
                    .set_buckets_for_metric(named, buckets)
                    .unwrap_or_else(|_| PrometheusBuilder::new())
            });
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        let metrics = Self { recorder, handle };
        metrics.with(describe);
        metrics
    }

    fn with<T>(&self, f: impl FnOnce() -> T) -> T {
        metrics::with_local_recorder(&self.recorder, f)
    }

    /// The handles of one model.
    pub fn model(&self, name: &str) -> ModelMetrics {
        let model = name.to_owned();
        self.with(|| {
            let finished =
                |reason| counter!(FINISHED, "model" => model.clone(), "finish_reason" => reason);
            ModelMetrics {
                ttft: histogram!(TTFT, "model" => model.clone()),
                itl: histogram!(ITL, "model" => model.clone()),
                queue: histogram!(QUEUE, "model" => model.clone()),
                prefill: histogram!(PREFILL, "model" => model.clone()),
                decode: histogram!(DECODE, "model" => model.clone()),
                duration: histogram!(DURATION, "model" => model.clone()),
                request_prompt: histogram!(REQUEST_PROMPT, "model" => model.clone()),
                request_generated: histogram!(REQUEST_GENERATED, "model" => model.clone()),
                prompt_tokens: counter!(PROMPT_TOKENS, "model" => model.clone()),
                cached_tokens: counter!(CACHED_TOKENS, "model" => model.clone()),
                generation_tokens: counter!(GENERATION_TOKENS, "model" => model.clone()),
                finished_stop: finished("stop"),
                finished_length: finished("length"),
            }
        })
    }

    /// Counts a response. `route` is a route's pattern, never a path.
    pub fn response(&self, route: &str, method: &'static str, status: u16) {
        let (route, status) = (route.to_owned(), status.to_string());
        self.with(|| {
            counter!(HTTP, "route" => route, "method" => method, "status" => status).increment(1);
        });
    }

    /// Counts a request that was refused.
    pub fn rejected(&self, reason: &'static str) {
        self.with(|| counter!(REJECTED, "reason" => reason).increment(1));
    }

    /// Sorts recorded values into buckets; call it every few seconds, or memory grows.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// The Prometheus text, with gauges of all models as of now; `None` for one that is not loaded.
    pub fn render<'m>(
        &self,
        models: impl Iterator<Item = (&'m str, Option<ModelSnapshot>)>,
    ) -> String {
        self.with(|| {
            gauge!("forebay_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
            for (name, snapshot) in models {
                let loaded = gauge!("forebay_model_loaded", "model" => name.to_owned());
                loaded.set(if snapshot.is_some() { 1.0 } else { 0.0 });
                if let Some(snapshot) = snapshot {
                    set_model_gauges(name, &snapshot);
                }
            }
        });
        self.handle.render()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[expect(clippy::cast_precision_loss, reason = "gauges are f64")]
fn set_model_gauges(model: &str, snapshot: &ModelSnapshot) {
    let ModelSnapshot { slots, stats, stalled_for, process } = snapshot;
    let name = || model.to_owned();
    let set = |metric: &'static str, value: f64| gauge!(metric, "model" => name()).set(value);
    set("forebay_requests_running", stats.running as f64);
    set("forebay_requests_waiting", stats.waiting as f64);
    set("forebay_kv_cache_used_tokens", stats.kv_used as f64);
    set("forebay_kv_cache_total_tokens", stats.kv_total as f64);
    set("forebay_kv_cache_usage_ratio", stats.kv_used as f64 / (stats.kv_total as f64).max(1.0));
    set("forebay_kv_cache_parked_tokens", stats.kv_parked as f64);
    set("forebay_kv_host_tokens", stats.kv_saved as f64);
    set("forebay_slots_total", f64::from(*slots));
    set("forebay_engine_step_running_seconds", stalled_for.unwrap_or(Duration::ZERO).as_secs_f64());
    let total = |metric: &'static str, value| counter!(metric, "model" => name()).absolute(value);
    total("forebay_engine_steps_total", stats.steps);
    total("forebay_engine_step_tokens_total", stats.step_tokens);
    total("forebay_decode_errors_total", stats.step_errors);
    for part in StepPart::ALL {
        let time = stats.times.of(part).as_micros();
        let time = u64::try_from(time).unwrap_or(u64::MAX);
        counter!(STEP_TIME, "model" => name(), "part" => part.label()).absolute(time);
    }
    total("forebay_draft_tokens_total", stats.drafted);
    total("forebay_draft_tokens_accepted_total", stats.accepted);
    set("forebay_draft_break_even_ratio", stats.draft_break_even);
    let labelled = |metric: &'static str, label: &'static str, value: &'static str, count| {
        counter!(metric, "model" => name(), label => value).absolute(count);
    };
    labelled("forebay_cancelled_total", "cause", "client_gone", stats.cancelled);
    labelled("forebay_cancelled_total", "cause", "timeout", stats.timed_out);
    set("forebay_unread_bytes", stats.unread_bytes as f64);
    total("forebay_unread_answers_cut_total", stats.cut);
    for death in ExitCause::ALL {
        let count = stats.deaths.get(&death).copied().unwrap_or(0);
        labelled("forebay_engine_deaths_total", "cause", death.label(), count);
    }
    set("forebay_engine_process", process.map_or(0.0, f64::from));
    let done = &stats.scheduler;
    labelled("forebay_preemptions_total", "cause", "kv_full", done.preempted_for_cells);
    labelled("forebay_preemptions_total", "cause", "outgrown", done.outgrown);
    labelled("forebay_preemptions_total", "cause", "priority", done.preempted_for_others);
    total("forebay_prefix_waits_total", done.waited);
    total("forebay_prefix_evictions_total", done.evicted);
    for reuse in REUSES {
        let count = done.reuse.get(&reuse).copied().unwrap_or(0);
        labelled("forebay_prefix_lookups_total", "result", reuse_label(reuse), count);
    }
}

const REUSES: [Reuse; 7] = [
    Reuse::Device,
    Reuse::Host,
    Reuse::Unseen,
    Reuse::Evicted,
    Reuse::NoRewind,
    Reuse::Short,
    Reuse::Unwanted,
];

/// A lookup's label: where the prefix was found, or why it was not.
fn reuse_label(reuse: Reuse) -> &'static str {
    match reuse {
        Reuse::Device => "hit_device",
        Reuse::Host => "hit_host",
        Reuse::Unseen => "miss_unseen",
        Reuse::Evicted => "miss_evicted",
        Reuse::NoRewind => "miss_no_rewind",
        Reuse::Short => "miss_short",
        Reuse::Unwanted => "miss_unwanted",
    }
}

fn describe() {
    for (name, unit, text, _) in HISTOGRAMS {
        describe_histogram!(name, unit, text);
    }
    describe_counter!(PROMPT_TOKENS, "Prompt tokens of accepted requests.");
    describe_counter!(CACHED_TOKENS, "Prompt tokens whose KV was reused.");
    describe_counter!(GENERATION_TOKENS, "Tokens generated.");
    describe_counter!(FINISHED, "Answers that ended, by reason.");
    describe_counter!(REJECTED, "Requests refused because of the server's state.");
    describe_counter!(HTTP, "HTTP responses.");
    describe_counter!("forebay_engine_steps_total", "Steps (forward passes) computed.");
    describe_counter!(
        "forebay_engine_deaths_total",
        "Processes of a model's engine that died and were started again, by cause."
    );
    describe_gauge!(
        "forebay_engine_process",
        "The number of the process that a model's engine runs in; 0 while there is none of its own."
    );
    describe_counter!("forebay_engine_step_tokens_total", "Tokens that went through the model.");
    describe_counter!("forebay_decode_errors_total", "Steps that failed.");
    describe_counter!(STEP_TIME, Unit::Microseconds, "Time of steps, by part.");
    describe_counter!("forebay_cancelled_total", "Requests cancelled, by cause.");
    describe_counter!("forebay_draft_tokens_total", "Drafted tokens that were computed.");
    describe_counter!("forebay_draft_tokens_accepted_total", "Drafted tokens that were right.");
    describe_counter!(
        "forebay_preemptions_total",
        "Sequences taken out of their slot and queued again, by cause."
    );
    describe_counter!(
        "forebay_prefix_lookups_total",
        "Sequences that got a slot, by where their prefix was found or why it was not."
    );
    describe_counter!(
        "forebay_prefix_waits_total",
        "Sequences that waited for a prefix that another one was computing."
    );
    describe_counter!("forebay_prefix_evictions_total", "Parked sequences that made room.");
    describe_counter!(
        "forebay_unread_answers_cut_total",
        "Answers dropped because clients did not read them and the memory for them was full."
    );
    describe_gauge!("forebay_unread_bytes", "Memory of answers that clients have not read yet.");
    describe_gauge!("forebay_build_info", "1, with the version as a label.");
    describe_gauge!("forebay_model_loaded", "1 when the model can serve.");
    describe_gauge!("forebay_requests_running", "Sequences that have a slot.");
    describe_gauge!("forebay_requests_waiting", "Requests that wait for a slot.");
    describe_gauge!("forebay_kv_cache_used_tokens", "KV cells that running sequences hold.");
    describe_gauge!("forebay_kv_cache_parked_tokens", "KV cells kept for reuse alone.");
    describe_gauge!("forebay_kv_host_tokens", "Tokens whose KV is kept in host memory.");
    describe_gauge!("forebay_kv_cache_total_tokens", "KV cells.");
    describe_gauge!("forebay_kv_cache_usage_ratio", "KV cells in use, from 0 to 1.");
    describe_gauge!(
        "forebay_draft_break_even_ratio",
        "How often a drafted token must be right for drafts to pay, by what steps cost now."
    );
    describe_gauge!("forebay_slots_total", "Sequences that can run together.");
    describe_gauge!(
        "forebay_engine_step_running_seconds",
        "How long the current step has been running; a hang detector."
    );
}
