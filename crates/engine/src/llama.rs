//! llama.cpp: the only module that names it. This file holds all unsafe code, each call in a safe function; its
//! folder uses only these.
//!
//! | file | what it holds |
//! |---|---|
//! | `serve.rs` | loading a file and serving it on the engine's thread |
//! | `header.rs`, `context_memory.rs` | a GGUF file's header, and the memory of contexts by it |
//! | `devices.rs`, `placement.rs` | the GPUs of this machine, and which of them holds what of a model |
//! | `generation.rs`, `embedding.rs` | the contexts of the two kinds of models |
//! | `metadata.rs` | a loaded model's metadata and vocabulary |

use std::ffi::{CStr, CString};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::session::LlamaStateSeqFlags;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::{LogOptions, send_logs_to_tracing};

use crate::model::StepError;

mod context_memory;
mod context_params;
pub(crate) mod devices;
mod embedding;
mod error_log;
mod generation;
mod header;
mod loaded_model;
mod metadata;
pub(crate) mod placement;
pub(crate) mod serve;

/// The address of a device's hardware, by its index in ggml's list.
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

/// The parameters of loading a model.
struct Load<'l> {
    /// GPUs, by their indices in ggml's list.
    devices: &'l [usize],
    /// Each device's part of the model (`tensor_split`); empty for llama.cpp's default.
    parts: &'l [f32],
    gpu_layers: i32,
    split: llama_cpp_sys_2::llama_split_mode,
    mmap: bool,
    /// A regular expression for the tensors that stay on the CPU.
    on_cpu: Option<&'l CStr>,
}

impl Load<'_> {
    /// Loads the model. llama-cpp-2 does the same, but has no setter for `tensor_split`.
    fn run(&self, _: &LlamaBackend, path: &Path, progress: &dyn Fn(f32)) -> Option<LlamaModel> {
        use llama_cpp_sys_2 as sys;
        let path = CString::new(path.to_str()?).ok()?;
        let progress: *const &dyn Fn(f32) = &progress;
        #[expect(unsafe_code, reason = "llama-cpp-2 has no setter for tensor_split")]
        // SAFETY: all that the parameters point to lives until the model is loaded, lists end as llama.cpp
        // wants them to, and the parts are as many as it reads. `LlamaModel` is a transparent wrapper of a
        // pointer that is not null, in the version that Cargo.toml names, and nothing else frees this one.
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
            params.progress_callback = Some(report_progress);
            params.progress_callback_user_data = progress.cast_mut().cast();
            let model = NonNull::new(sys::llama_model_load_from_file(path.as_ptr(), params))?;
            Some(std::mem::transmute::<NonNull<sys::llama_model>, LlamaModel>(model))
        }
    }
}

/// llama.cpp's callback with the loaded fraction, from 0 to 1. Returns true, so that loading continues.
extern "C" fn report_progress(fraction: f32, data: *mut std::ffi::c_void) -> bool {
    #[expect(unsafe_code, reason = "llama.cpp hands back a pointer")]
    // SAFETY: it is the one that the parameters had, to something that lives until the model is loaded.
    let report = unsafe { *data.cast::<&dyn Fn(f32)>() };
    report(fraction);
    true
}

/// llama.cpp's line about its compiled features, such as `AVX2 = 1`.
pub fn system_info() -> String {
    if backend().is_none() {
        return String::new();
    }
    #[expect(unsafe_code, reason = "llama-cpp-2 does not wrap this function")]
    // SAFETY: the function takes nothing and returns a static, null-terminated string.
    let line = unsafe { CStr::from_ptr(llama_cpp_sys_2::llama_print_system_info()) };
    line.to_string_lossy().trim().to_owned()
}

/// Makes this process refuse to initialise llama.cpp: its models are in processes of their own, and a GPU's context
/// takes hundreds of megabytes of that GPU.
pub fn never_initialise() {
    NEVER_INITIALISE.store(true, Ordering::Relaxed);
}

static NEVER_INITIALISE: AtomicBool = AtomicBool::new(false);

/// Initialises llama.cpp once for the process, its log going to `tracing`.
fn backend() -> Option<&'static LlamaBackend> {
    static BACKEND: OnceLock<Option<LlamaBackend>> = OnceLock::new();
    if NEVER_INITIALISE.load(Ordering::Relaxed) {
        tracing::error!("llama.cpp must not be initialised in the server process");
        return None;
    }
    BACKEND
        .get_or_init(|| {
            send_logs_to_tracing(LogOptions::default());
            install_log_hook();
            #[cfg(feature = "dynamic-backends")]
            load_backends();
            LlamaBackend::init().ok()
        })
        .as_ref()
}

/// A log callback of llama.cpp, and its argument.
struct Log {
    callback: llama_cpp_sys_2::ggml_log_callback,
    data: *mut std::ffi::c_void,
}

/// Records errors in [`error_log`] before the log goes on to `tracing`.
fn install_log_hook() {
    use llama_cpp_sys_2 as sys;
    let (mut llama, mut ggml) =
        [(); 2].map(|()| Log { callback: None, data: std::ptr::null_mut() }).into();
    #[expect(unsafe_code, reason = "llama-cpp-2 does not wrap these functions")]
    // SAFETY: llama.cpp writes a function and a pointer to the given places, and gets a function that takes what
    // it hands over, with a pointer to what is never freed.
    unsafe {
        sys::llama_log_get(&raw mut llama.callback, &raw mut llama.data);
        sys::ggml_log_get(&raw mut ggml.callback, &raw mut ggml.data);
        // `llama_log_set` sets ggml's as well.
        sys::llama_log_set(
            Some(log_callback),
            std::ptr::from_mut(Box::leak(Box::new(llama))).cast(),
        );
        sys::ggml_log_set(Some(log_callback), std::ptr::from_mut(Box::leak(Box::new(ggml))).cast());
    }
}

/// llama.cpp's log callback: records errors and calls the next callback.
#[expect(unsafe_code, reason = "llama.cpp hands back a pointer")]
unsafe extern "C" fn log_callback(
    level: llama_cpp_sys_2::ggml_log_level,
    text: *const std::ffi::c_char,
    data: *mut std::ffi::c_void,
) {
    // SAFETY: the pointer is the one to a log that is never freed, and texts end with a null.
    let (log, line) = unsafe { (&*data.cast::<Log>(), CStr::from_ptr(text)) };
    if level == llama_cpp_sys_2::GGML_LOG_LEVEL_ERROR {
        error_log::record(&line.to_string_lossy());
    }
    if let Some(callback) = log.callback {
        // SAFETY: it gets what llama.cpp would have given it.
        unsafe { callback(level, text, log.data) }
    }
}

/// Loads CPU variants and GPU backends, from the folder in `FOREBAY_BACKENDS`, or the one beside the program, or where
/// they were built.
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
    if llama_cpp_2::list_llama_ggml_backend_devices().is_empty() {
        llama_cpp_2::llama_backend::load_backends();
    }
}

/// An entry of a GGUF file's header.
enum GgufEntry<'g> {
    Tensor {
        name: String,
        bytes: u64,
        /// Where its data ends in the file, in bytes.
        end: u64,
    },
    Value {
        key: String,
        /// The type of the value, or of an array's elements.
        kind: llama_cpp_sys_2::gguf_type,
        is_array: bool,
        /// Elements of an array; else 1.
        count: usize,
        /// Integers and booleans as they lie in memory; empty for other types.
        bytes: &'g [u8],
        /// A string that is in no array.
        text: Option<String>,
    },
}

/// Bytes of an integer or boolean of this GGUF type; `None` if the type is another one.
fn integer_width(kind: llama_cpp_sys_2::gguf_type) -> Option<usize> {
    use llama_cpp_sys_2 as sys;
    match kind {
        sys::GGUF_TYPE_UINT8 | sys::GGUF_TYPE_INT8 | sys::GGUF_TYPE_BOOL => Some(1),
        sys::GGUF_TYPE_UINT16 | sys::GGUF_TYPE_INT16 => Some(2),
        sys::GGUF_TYPE_UINT32 | sys::GGUF_TYPE_INT32 => Some(4),
        sys::GGUF_TYPE_UINT64 | sys::GGUF_TYPE_INT64 => Some(8),
        _ => None,
    }
}

/// Passes each entry of a GGUF file's header to `visit`, tensors first. Returns `None` if the file cannot be read
/// as one.
fn read_gguf(path: &Path, visit: &mut dyn FnMut(GgufEntry<'_>)) -> Option<()> {
    use llama_cpp_sys_2 as sys;
    let name = CString::new(path.to_str()?).ok()?;
    let params = sys::gguf_init_params { no_alloc: true, ctx: std::ptr::null_mut() };
    let text = |text: *const std::ffi::c_char| {
        #[expect(unsafe_code, reason = "llama-cpp-2 does not wrap these functions")]
        // SAFETY: gguf's names are null-terminated and live as long as the header, which is
        // freed at the end of this function.
        let text = unsafe { CStr::from_ptr(text) };
        text.to_string_lossy().into_owned()
    };
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
            let bytes = sys::gguf_get_tensor_size(gguf, tensor) as u64;
            let (data, start) = (
                sys::gguf_get_data_offset(gguf) as u64,
                sys::gguf_get_tensor_offset(gguf, tensor) as u64,
            );
            let end = data.saturating_add(start).saturating_add(bytes);
            visit(GgufEntry::Tensor { name, bytes, end });
        }
        for at in 0..sys::gguf_get_n_kv(gguf) {
            let key = text(sys::gguf_get_key(gguf, at));
            let (is_array, kind) = match sys::gguf_get_kv_type(gguf, at) {
                sys::GGUF_TYPE_ARRAY => (true, sys::gguf_get_arr_type(gguf, at)),
                kind => (false, kind),
            };
            let count = if is_array { sys::gguf_get_arr_n(gguf, at) } else { 1 };
            let is_text = kind == sys::GGUF_TYPE_STRING && !is_array;
            let value = is_text.then(|| text(sys::gguf_get_val_str(gguf, at)));
            let bytes: &[u8] = match integer_width(kind).filter(|_| count > 0) {
                Some(width) => {
                    let data = match is_array {
                        true => sys::gguf_get_arr_data(gguf, at),
                        false => sys::gguf_get_val_data(gguf, at),
                    };
                    std::slice::from_raw_parts(data.cast::<u8>(), count * width)
                }
                None => &[],
            };
            visit(GgufEntry::Value { key, kind, is_array, count, bytes, text: value });
        }
        sys::gguf_free(gguf);
    }
    Some(())
}

fn new_batch(tokens: u32, sequences: i32) -> LlamaBatch<'static> {
    LlamaBatch::new(tokens as usize, sequences)
}

fn llama_id(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

fn step_error(error: impl std::fmt::Display) -> StepError {
    StepError(error.to_string())
}

/// A sequence's state of `size` bytes; `None` if llama.cpp fails.
fn saved_bytes(context: &LlamaContext<'_>, sequence: i32, size: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; size];
    let flags = LlamaStateSeqFlags::empty();
    #[expect(unsafe_code, reason = "the safe wrapper does not let the bytes be read")]
    // SAFETY: the buffer has the size that llama.cpp wants for this sequence.
    let written = unsafe { context.state_seq_get_data_ext(bytes.as_mut_ptr(), sequence, flags) };
    (written > 0).then_some(bytes)
}

/// Restores a saved state to a sequence. Returns whether llama.cpp accepts it.
fn restore_bytes(context: &mut LlamaContext<'_>, sequence: i32, state: &[u8]) -> bool {
    let flags = LlamaStateSeqFlags::empty();
    #[expect(unsafe_code, reason = "the safe wrapper takes no bytes")]
    // SAFETY: these are what llama.cpp wrote for a sequence of the same model, its streams
    // counted as they are here; it checks the shape.
    unsafe {
        context.state_seq_set_data_ext(state, sequence, flags)
    }
}

/// A context that another thread may use.
struct Movable<'m>(LlamaContext<'m>);

#[expect(unsafe_code, reason = "llama-cpp-2 does not say that a context may change threads")]
// SAFETY: a context is not tied to the thread that made it, and is used by one thread at a time:
// every method that computes takes it by unique reference.
unsafe impl Send for Movable<'_> {}
