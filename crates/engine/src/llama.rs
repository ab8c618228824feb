//! llama.cpp: the only module that names it, and the only file with unsafe code.
//!
//! KV layout: `kv_unified` on is [`KvLayout::Shared`], off is [`KvLayout::Split`] (a stream for each
//! slot). Copying between slots is a matter of metadata in the first; in the second llama.cpp
//! copies whole streams, when the next batch is decoded. Which one: `layout.rs`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::num::NonZeroU32;
use std::ops::Range;
use std::path::Path;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use forebay_scheduler::{KvOp, SavedId};
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::session::LlamaStateSeqFlags;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::{LogOptions, list_llama_ggml_backend_devices, send_logs_to_tracing};

use crate::fit::{FitError, Room};
use crate::host::Host;
use crate::layout::{self, Facts};
use crate::long::WithLong;
use crate::model::{Capacity, Device, Kind, Model, Row, StepError};
use crate::state::{Shape, of_one_stream, of_streams};
use crate::vocab::Vocab;

mod embedding;
mod gpus;
mod header;
mod metadata;
mod place;

use gpus::Gpu;
use header::{Header, integer_width, largest_integer};
use metadata::{Metadata, vocab};
pub use place::fit;
use place::{Placed, context_params, threads};

/// What llama.cpp's CPU flash attention computes at once, in queries and in keys.
const ATTENTION_BLOCK: u32 = 64;
const DEFAULT_BATCH: u32 = 2048;
const DEFAULT_UBATCH: u32 = 512;

/// Loads a GGUF file on this thread and serves it until the last handle is gone.
pub(crate) fn run(path: &Path, host: Host) {
    let Some(backend) = backend() else {
        return host.fail("llama.cpp could not be initialised");
    };
    let loaded = Placed::of(path, &host.config)
        .and_then(|placed| Ok((placed.load(backend, path, &host)?, placed)));
    let (model, placed) = match loaded {
        Ok((model, placed)) => (Arc::new(model), placed),
        Err(why) => return host.fail(why),
    };
    let metadata = Metadata::read(&model);
    let kind = host.config.kind.unwrap_or_else(|| metadata.kind());
    let vocab = vocab(&model);
    let result = match kind {
        Kind::Chat => serve_generation(backend, &model, &metadata, vocab, &placed, host),
        Kind::Embedding => embedding::serve(backend, &model, &metadata, vocab, &placed, host),
    };
    if let Err(failed) = result {
        let (host, why) = *failed;
        host.fail(why);
    }
}

/// The devices that llama.cpp can compute on.
pub fn devices() -> Vec<Device> {
    if backend().is_none() {
        return Vec::new();
    }
    list_llama_ggml_backend_devices()
        .into_iter()
        .map(|d| Device {
            name: d.name,
            description: d.description,
            memory_total: d.memory_total,
            memory_free: d.memory_free,
        })
        .collect()
}

/// The devices beside the CPU that a model may be put on.
fn gpus() -> Vec<Gpu> {
    use llama_cpp_2::LlamaBackendDeviceType as Type;
    let listed = list_llama_ggml_backend_devices().into_iter();
    let beside =
        listed.filter(|device| matches!(device.device_type, Type::Gpu | Type::IntegratedGpu));
    let all = beside.map(|device| {
        let (free, total) = (device.memory_free as u64, device.memory_total as u64);
        Gpu {
            index: device.index,
            room: Room { name: device.name, free, total, part: free },
            backend: device.backend,
            id: device_id(device.index),
            integrated: device.device_type == Type::IntegratedGpu,
        }
    });
    gpus::usable(all.collect())
}

/// The address of a device's hardware, by its number in ggml's list.
fn device_id(index: usize) -> Option<String> {
    use llama_cpp_sys_2 as sys;
    #[expect(unsafe_code, reason = "llama-cpp-2 does not tell it")]
    // SAFETY: the number is of a device that was listed, and devices stay; all fields of the record may be
    // zero, and the text is null or null-terminated and belongs to the device.
    unsafe {
        let mut props = std::mem::zeroed::<sys::ggml_backend_dev_props>();
        sys::ggml_backend_dev_get_props(sys::ggml_backend_dev_get(index), &raw mut props);
        let id = (!props.device_id.is_null()).then(|| CStr::from_ptr(props.device_id));
        id.map(|id| id.to_string_lossy().into_owned()).filter(|id| !id.is_empty())
    }
}

/// How a model is loaded.
struct Load<'l> {
    /// Devices beside the CPU, by their numbers in ggml's list.
    devices: &'l [usize],
    /// What part of a model each gets, beside the others' parts; empty for llama.cpp's own choice.
    parts: &'l [f32],
    gpu_layers: i32,
    split: llama_cpp_sys_2::llama_split_mode,
    mmap: bool,
    /// Names of tensors that stay on the CPU, as a regular expression.
    on_cpu: Option<&'l CStr>,
}

impl Load<'_> {
    /// Loads it, as llama-cpp-2 does; but that has no setter for `tensor_split`.
    fn run(&self, _: &LlamaBackend, path: &Path, progress: &dyn Fn(f32)) -> Option<LlamaModel> {
        use llama_cpp_sys_2 as sys;
        let path = CString::new(path.to_str()?).ok()?;
        let progress: *const &dyn Fn(f32) = &progress;
        #[expect(unsafe_code, reason = "llama-cpp-2 has no setter for tensor_split")]
        // SAFETY: all that the parameters point to lives until the model is loaded, lists end as llama.cpp
        // wants them to, and the parts are as many as it reads. `LlamaModel` is a transparent wrapper of a
        // pointer that is not null, in the version that Cargo.toml names, and nobody else frees this one.
        unsafe {
            let device = |&index: &usize| sys::ggml_backend_dev_get(index);
            let mut devices: Vec<_> = self.devices.iter().map(device).collect();
            devices.push(std::ptr::null_mut());
            let mut parts = self.parts.to_vec();
            parts.resize(sys::llama_max_devices().max(parts.len()), 0.0);
            let nothing = sys::llama_model_tensor_buft_override {
                pattern: std::ptr::null(),
                buft: std::ptr::null_mut(),
            };
            let on_cpu = self.on_cpu.map(|pattern| sys::llama_model_tensor_buft_override {
                pattern: pattern.as_ptr(),
                buft: sys::ggml_backend_cpu_buffer_type(),
            });
            let on_cpu: Vec<_> = on_cpu.into_iter().chain([nothing]).collect();
            let mut params = sys::llama_model_default_params();
            if !self.devices.is_empty() {
                params.devices = devices.as_mut_ptr();
            }
            if !self.parts.is_empty() {
                params.tensor_split = parts.as_ptr();
            }
            params.tensor_buft_overrides = on_cpu.as_ptr();
            params.n_gpu_layers = self.gpu_layers;
            params.split_mode = self.split;
            params.load_mode =
                if self.mmap { sys::LLAMA_LOAD_MODE_MMAP } else { sys::LLAMA_LOAD_MODE_NONE };
            params.progress_callback = Some(tell_progress);
            params.progress_callback_user_data = progress.cast_mut().cast();
            let model = NonNull::new(sys::llama_model_load_from_file(path.as_ptr(), params))?;
            Some(std::mem::transmute::<NonNull<sys::llama_model>, LlamaModel>(model))
        }
    }
}

/// Hears from llama.cpp how much of a model is loaded, from 0 to 1, and lets it go on.
extern "C" fn tell_progress(fraction: f32, data: *mut std::ffi::c_void) -> bool {
    #[expect(unsafe_code, reason = "llama.cpp hands back a pointer")]
    // SAFETY: it is the one that the parameters had, to something that lives until the model is loaded.
    let tell = unsafe { *data.cast::<&dyn Fn(f32)>() };
    tell(fraction);
    true
}

/// llama.cpp's own line about what it was compiled for, such as `AVX2 = 1`.
pub fn system_info() -> String {
    if backend().is_none() {
        return String::new();
    }
    #[expect(unsafe_code, reason = "llama-cpp-2 does not wrap this function")]
    // SAFETY: the function takes nothing and returns a static, null-terminated string.
    let line = unsafe { CStr::from_ptr(llama_cpp_sys_2::llama_print_system_info()) };
    line.to_string_lossy().trim().to_owned()
}

/// Sees to it that this process never initialises llama.cpp: its models are in processes of their own,
/// and a GPU's context takes hundreds of megabytes of that GPU.
pub fn never_here() {
    NEVER_HERE.store(true, Ordering::Relaxed);
}

static NEVER_HERE: AtomicBool = AtomicBool::new(false);

/// Initialises llama.cpp once for the process, its log going to `tracing`.
fn backend() -> Option<&'static LlamaBackend> {
    static BACKEND: OnceLock<Option<LlamaBackend>> = OnceLock::new();
    if NEVER_HERE.load(Ordering::Relaxed) {
        tracing::error!("llama.cpp is not for the process that clients talk to");
        return None;
    }
    BACKEND
        .get_or_init(|| {
            send_logs_to_tracing(LogOptions::default());
            #[cfg(feature = "dynamic-backends")]
            load_backends();
            LlamaBackend::init().ok()
        })
        .as_ref()
}

/// Loads what can compute: CPU variants and GPU backends, from the folder that the environment names,
/// or the one beside the program, or where they were built.
#[cfg(feature = "dynamic-backends")]
fn load_backends() {
    let beside = std::env::current_exe().ok().and_then(|program| {
        let folder = program.parent()?;
        let installed = folder.join("../lib/forebay");
        Some(if installed.is_dir() { installed } else { folder.to_owned() })
    });
    let named = std::env::var_os("FOREBAY_BACKENDS").map(std::path::PathBuf::from);
    if let Some(folder) = named.or(beside) {
        llama_cpp_2::llama_backend::load_backends_from_path(&folder);
    }
    if list_llama_ggml_backend_devices().is_empty() {
        llama_cpp_2::llama_backend::load_backends();
    }
}

impl Header {
    /// Reads it, with the tensors of the model's other files.
    fn read(path: &Path) -> Result<Self, FitError> {
        let name = |path: &Path| path.display().to_string();
        let read =
            |path: &Path| Self::of_file(path).ok_or_else(|| FitError::Unreadable(name(path)));
        let mut header = read(path)?;
        let others = header.other_files(path);
        for other in others.map_err(|why| FitError::NoModel { file: name(path), why })? {
            header.tensors.extend(read(&other)?.tensors);
        }
        Ok(header)
    }

    /// One file's; `None` where it has none.
    fn of_file(path: &Path) -> Option<Self> {
        use llama_cpp_sys_2 as sys;
        let name = CString::new(path.to_str().filter(|_| path.is_file())?).ok()?;
        let params = sys::gguf_init_params { no_alloc: true, ctx: std::ptr::null_mut() };
        let text = |text: *const std::ffi::c_char| {
            #[expect(unsafe_code, reason = "llama-cpp-2 does not wrap these functions")]
            // SAFETY: gguf's names are null-terminated and live as long as the header, which is
            // freed at the end of this function.
            let text = unsafe { CStr::from_ptr(text) };
            text.to_string_lossy().into_owned()
        };
        let mut header = Self::default();
        #[expect(unsafe_code, reason = "llama-cpp-2 does not wrap these functions")]
        // SAFETY: the header is checked for null, used by this thread alone and freed once; all
        // numbers of tensors and keys are below the counts that it gives, a value is read as the
        // type that it is said to be, and an array has as many elements as it is said to have.
        unsafe {
            let gguf = sys::gguf_init_from_file(name.as_ptr(), params);
            if gguf.is_null() {
                return None;
            }
            for tensor in 0..sys::gguf_get_n_tensors(gguf) {
                let name = text(sys::gguf_get_tensor_name(gguf, tensor));
                header.tensors.push((name, sys::gguf_get_tensor_size(gguf, tensor) as u64));
            }
            for key in 0..sys::gguf_get_n_kv(gguf) {
                let name = text(sys::gguf_get_key(gguf, key));
                let (is_array, kind) = match sys::gguf_get_kv_type(gguf, key) {
                    sys::GGUF_TYPE_ARRAY => (true, sys::gguf_get_arr_type(gguf, key)),
                    kind => (false, kind),
                };
                let count = if is_array { sys::gguf_get_arr_n(gguf, key) } else { 1 };
                if is_array && name == "tokenizer.ggml.tokens" {
                    header.n_vocab = count as u64;
                }
                let is_text = kind == sys::GGUF_TYPE_STRING && !is_array;
                if is_text && name == "general.architecture" {
                    header.architecture = text(sys::gguf_get_val_str(gguf, key));
                }
                if let Some(width) = integer_width(kind).filter(|_| count > 0) {
                    let data = match is_array {
                        true => sys::gguf_get_arr_data(gguf, key),
                        false => sys::gguf_get_val_data(gguf, key),
                    };
                    let bytes = std::slice::from_raw_parts(data.cast::<u8>(), count * width);
                    header.numbers.extend(largest_integer(kind, bytes).map(|n| (name, n)));
                }
            }
            sys::gguf_free(gguf);
        }
        Some(header)
    }
}

// === Generation ===

/// What can go wrong after loading, with the host to tell it through.
type Served = Result<(), Box<(Host, String)>>;

fn serve_generation(
    backend: &LlamaBackend,
    model: &LlamaModel,
    metadata: &Metadata,
    vocab: Vocab,
    placed: &Placed,
    host: Host,
) -> Served {
    let config = &host.config;
    let batch_tokens = config.batch_size.unwrap_or(DEFAULT_BATCH).max(config.parallel + 1);
    let recurs = model.is_recurrent() || model.is_hybrid();
    let kv = layout::of(
        config,
        &Facts {
            n_ctx_train: metadata.n_ctx_train,
            on_cpu: placed.on_cpu(),
            // What a recurrent state or a sliding window has passed cannot be brought back.
            rewinds: !(recurs || metadata.sliding_window),
            // llama.cpp does not tell where in a state of all three one of them begins.
            saves: !(model.is_hybrid() && metadata.sliding_window),
            kv_bytes: placed.kv_bytes,
            arithmetic: placed.arithmetic,
        },
    );
    let block = if placed.on_cpu() { ATTENTION_BLOCK } else { 1 };
    let params = context_params(config, threads(config))
        .with_kv_unified(kv.shares)
        // Of what has left the window nothing is used again.
        .with_swa_full(kv.rewinds)
        .with_n_batch(batch_tokens)
        .with_n_ubatch(config.ubatch_size.unwrap_or(DEFAULT_UBATCH).min(batch_tokens));
    let saved = Saved::default();
    let runner = move |slots: u32, cells: u32| {
        let params = params.clone().with_n_ctx(NonZeroU32::new(cells)).with_n_seq_max(slots);
        let none = |_| StepError(format!("llama.cpp cannot make a context of {cells} tokens"));
        let context = model.new_context(backend, params).map_err(none)?;
        let streams = if kv.shares { 1 } else { slots };
        let (batch, saved) = (new_batch(batch_tokens, 1), Rc::clone(&saved));
        let (places, kept) = (Vec::new(), Vec::new());
        Ok(Runner { context, batch, places, kept, streams, saved, recurs })
    };
    let usual = match runner(kv.slots, kv.cells) {
        Ok(usual) => usual,
        Err(why) => return Err(Box::new((host, format!("{why}; {}", placed.needs())))),
    };
    let info = metadata.info(model, Kind::Chat, config.parallel, kv.request_tokens());
    tracing::info!(
        cells = kv.cells,
        slot_tokens = kv.slot_tokens,
        request_tokens = kv.request_tokens(),
        layout = if kv.shares { "shared" } else { "split" },
        host_tokens = kv.saved_tokens,
        host_mib = kv.saved_bytes >> 20,
        "KV cache"
    );
    let capacity = Capacity { kv, batch_tokens, block };
    match kv.long_slot() {
        None => host.serve_generation(info, vocab, capacity, usual),
        Some(slot) => {
            let with_long = WithLong::new(usual, slot, move || runner(1, kv.long_tokens));
            host.serve_generation(info, vocab, capacity, with_long);
        }
    }
    Ok(())
}

fn new_batch(tokens: u32, sequences: i32) -> LlamaBatch<'static> {
    LlamaBatch::new(tokens as usize, sequences)
}

/// What slots held, in host memory, for all contexts of a model: as of one stream.
type Saved = Rc<RefCell<HashMap<SavedId, (Vec<u8>, Shape)>>>;

/// A context that generates.
struct Runner<'m> {
    context: LlamaContext<'m>,
    batch: LlamaBatch<'static>,
    /// Where each row of the last step has its logits, if it has any.
    places: Vec<Place>,
    /// Logits of a call that another one followed, row after row.
    kept: Vec<f32>,
    saved: Saved,
    /// Of the KV cache.
    streams: u32,
    /// Whether the model has a recurrent state.
    recurs: bool,
}

/// Where a row's logits are.
#[derive(Clone, Copy)]
enum Place {
    /// In llama.cpp's output, by the row's index in its batch.
    Batch(i32),
    /// In `kept`, between these.
    Kept { start: usize, end: usize },
}

fn llama_id(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

fn step_error(error: impl std::fmt::Display) -> StepError {
    StepError(error.to_string())
}

impl<'m> Runner<'m> {
    fn trim(&mut self, slot: u32, keep: u32) -> Result<(), StepError> {
        match self.context.clear_kv_cache_seq(Some(slot), Some(keep), None).map_err(step_error)? {
            true => Ok(()),
            false => Err(StepError(format!("slot {slot} cannot be cut back to {keep} tokens"))),
        }
    }

    /// What a slot holds, as of a KV cache with one stream.
    fn save(&self, slot: u32) -> Result<(Vec<u8>, Shape), StepError> {
        let (slot, flags) = (llama_id(slot), LlamaStateSeqFlags::empty());
        let all = self.context.state_seq_get_size_ext(slot, flags);
        // The part that cannot be cut back is what follows the cells of all tokens, if there are any.
        let part = self.context.state_seq_get_size_ext(slot, LlamaStateSeqFlags::PARTIAL_ONLY);
        let shape = match (all.saturating_sub(part), self.recurs) {
            (0, false) => Shape::Cells,
            (0, true) => Shape::Recurrent,
            (first, false) => Shape::Windowed(first),
            (first, true) => Shape::Hybrid(first),
        };
        let mut bytes = vec![0; all];
        #[expect(unsafe_code, reason = "the safe wrapper does not let the bytes be read")]
        // SAFETY: the buffer has the size that llama.cpp wants for this sequence.
        let written =
            unsafe { self.context.state_seq_get_data_ext(bytes.as_mut_ptr(), slot, flags) };
        let state = of_one_stream(bytes, shape, self.streams).filter(|_| written > 0);
        state.ok_or_else(|| StepError(format!("slot {slot} cannot be saved")))
    }

    fn restore(&mut self, slot: u32, state: &[u8]) -> Result<(), StepError> {
        let flags = LlamaStateSeqFlags::empty();
        #[expect(unsafe_code, reason = "the safe wrapper takes no bytes")]
        // SAFETY: these are what llama.cpp wrote for a sequence of the same model, its streams
        // counted as they are here; it checks the shape.
        let done = unsafe { self.context.state_seq_set_data_ext(state, llama_id(slot), flags) };
        if done { Ok(()) } else { Err(StepError(format!("slot {slot} cannot be restored"))) }
    }

    /// One decode call, of these of the step's rows, and how long it took.
    fn call(&mut self, rows: &[Row], chosen: Range<usize>) -> Result<Duration, StepError> {
        let started = Instant::now();
        self.batch.clear();
        for i in chosen {
            let Row { token, pos, slot, logits } = rows[i];
            self.places[i] = Place::Batch(self.batch.n_tokens());
            self.batch
                .add(LlamaToken(llama_id(token)), llama_id(pos), &[llama_id(slot)], logits)
                .map_err(step_error)?;
        }
        self.context.decode(&mut self.batch).map_err(step_error)?;
        // Where the device computes on its own, the call ends before the work does.
        self.context.synchronize();
        Ok(started.elapsed())
    }

    /// Saves these rows' logits from the next call, which overwrites them.
    fn keep(&mut self, rows: &[Row], chosen: Range<usize>) {
        for i in chosen {
            if let (true, Place::Batch(index)) = (rows[i].logits, self.places[i]) {
                let start = self.kept.len();
                self.kept.extend_from_slice(self.context.get_logits_ith(index));
                self.places[i] = Place::Kept { start, end: self.kept.len() };
            }
        }
    }
}

impl Model for Runner<'_> {
    fn step(&mut self, rows: &[Row], calls: &[usize]) -> Result<Vec<Duration>, StepError> {
        self.places.clear();
        self.places.resize(rows.len(), Place::Batch(0));
        self.kept.clear();
        let mut before = 0..0;
        let mut took = Vec::with_capacity(calls.len());
        for count in calls {
            self.keep(rows, before.clone());
            before = before.end..before.end + count;
            took.push(self.call(rows, before.clone())?);
        }
        Ok(took)
    }

    fn logits(&self, index: usize) -> &[f32] {
        match self.places[index] {
            Place::Batch(index) => self.context.get_logits_ith(index),
            Place::Kept { start, end } => &self.kept[start..end],
        }
    }

    fn change(&mut self, op: KvOp) -> Result<(), StepError> {
        match op {
            KvOp::Trim { slot, keep } => self.trim(slot.0, keep),
            KvOp::Copy { from, to, keep } => {
                let (from, id) = (llama_id(from.0), llama_id(to.0));
                // Whole sequences only: between streams llama.cpp aborts on a part of one.
                self.context.copy_kv_cache_seq(from, id, None, None).map_err(step_error)?;
                self.trim(to.0, keep)
            }
            KvOp::Save { slot, saved } => {
                match self.save(slot.0) {
                    Ok(state) => drop(self.saved.borrow_mut().insert(saved, state)),
                    // There is no copy then, which is seen from its missing size.
                    Err(error) => tracing::warn!(%error, "no copy in host memory"),
                }
                Ok(())
            }
            KvOp::Restore { saved, slot, keep } => {
                let none = || StepError(format!("nothing was saved as {}", saved.0));
                let states = Rc::clone(&self.saved);
                let states = states.borrow();
                let (state, shape) = states.get(&saved).ok_or_else(none)?;
                match self.streams {
                    1 => self.restore(slot.0, state)?,
                    streams => self.restore(slot.0, &of_streams(state, *shape, streams))?,
                }
                self.trim(slot.0, keep)
            }
            KvOp::Forget { saved } => {
                self.saved.borrow_mut().remove(&saved);
                Ok(())
            }
        }
    }

    fn saved_bytes(&self, saved: SavedId) -> Option<u64> {
        self.saved.borrow().get(&saved).map(|(state, _)| state.len() as u64)
    }
}

// === Embeddings ===

/// A context that another thread may use.
struct Movable<'m>(LlamaContext<'m>);

#[expect(unsafe_code, reason = "llama-cpp-2 does not say that a context may change threads")]
// SAFETY: a context is not tied to the thread that made it, and is used by one thread at a time:
// every method that computes takes it by unique reference.
unsafe impl Send for Movable<'_> {}
