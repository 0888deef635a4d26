//! ONNX Runtime's library: found, loaded and checked, once per process.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ort::environment::Environment;
use ort::logging::LogLevel;
use tracing::{debug, info, warn};

use super::Error;

/// The environment variable with the path of ONNX Runtime's library, where the specification has none.
pub const LIBRARY_VARIABLE: &str = "ISOBAR_ONNXRUNTIME";

const WAY_OUT: &str = "name the path of its library (libonnxruntime.so; PyPI's package `onnxruntime` has it in onnxruntime/capi) in \
                       `models: onnxruntime:` of the specification or in the environment variable ISOBAR_ONNXRUNTIME";

/// A library can be loaded once, and its environment made once.
static LOADED: Mutex<Option<Runtime>> = Mutex::new(None);

/// The library, loaded once per process: every further one is the first.
#[derive(Debug, Clone)]
pub struct Runtime {
    path: Arc<PathBuf>,
    environment: Environment,
}

impl Runtime {
    /// Loads the library from `path`, or else from [`LIBRARY_VARIABLE`].
    ///
    /// # Errors
    /// [`Error::Library`] if it is not there, is no ONNX Runtime, or too old.
    pub fn load(path: Option<&Path>) -> Result<Self, Error> {
        let named = match path {
            Some(path) => path.to_owned(),
            None => match std::env::var_os(LIBRARY_VARIABLE).filter(|value| !value.is_empty()) {
                Some(value) => PathBuf::from(value),
                None => return Err(Error::Library(format!("models need ONNX Runtime: {WAY_OUT}"))),
            },
        };
        let found = named.canonicalize().map_err(|error| {
            Error::Library(format!("ONNX Runtime is not at {}: {error}; {WAY_OUT}", named.display()))
        })?;
        if !found.is_file() {
            let what = format!("{} is a folder, not ONNX Runtime's library; {WAY_OUT}", found.display());
            return Err(Error::Library(what));
        }
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = &*loaded {
            if *runtime.path != found {
                let (used, asked) = (runtime.path.display(), found.display());
                warn!(%used, %asked, "a process loads ONNX Runtime once: the first library stays");
            }
            return Ok(runtime.clone());
        }
        let environment = open(&found)?;
        info!(path = %found.display(), "ONNX Runtime loaded");
        Ok(loaded.insert(Self { path: Arc::new(found), environment }).clone())
    }

    pub(super) fn environment(&self) -> &Environment {
        &self.environment
    }
}

fn open(path: &Path) -> Result<Environment, Error> {
    let wrong = |what: String| Error::Library(format!("cannot load ONNX Runtime: {what}; {WAY_OUT}"));
    // The binding asserts what it expects of a library; another one must not end the process.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let builder = ort::init_from(path).map_err(|error| error.to_string())?;
        let environment =
            builder.with_name("isobar").with_telemetry(false).with_logger(Arc::new(log)).build();
        environment.map_err(|error| error.to_string())
    }));
    let environment = opened.unwrap_or_else(|_| Err(format!("{} is another library", path.display())));
    let environment = environment.map_err(wrong)?;
    environment.set_log_level(LogLevel::Warning);
    Ok(environment)
}

/// What ONNX Runtime has to say. Its errors come back as errors too, each once.
fn log(level: LogLevel, category: &str, _id: &str, _location: &str, message: &str) {
    debug!(?level, category, "ONNX Runtime: {message}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_library_is_an_error_that_says_where_to_get_one() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("libonnxruntime.so");
        std::fs::write(&text, "no library").unwrap();
        for path in [folder.path().to_owned(), folder.path().join("absent.so")] {
            let error = Runtime::load(Some(&path)).unwrap_err().to_string();
            assert!(error.contains("ISOBAR_ONNXRUNTIME"), "{error}");
        }
        // Not by `load`, which is content where another test has loaded the library.
        let error = open(&text).unwrap_err().to_string();
        assert!(error.contains("ISOBAR_ONNXRUNTIME"), "{error}");
    }
}
