//! Where a configuration comes from, so that it can be read again.

use std::io;
use std::path::{Path, PathBuf};

use super::cookie::Files;
use super::load::{load_with, socket_in};
use super::{DEFAULT_PATH, LoadError, Loaded, Overrides, defaults, from_text_with, read_text};

/// Where a configuration comes from.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// The file that was named; `None`: the one at [`DEFAULT_PATH`], if there is one.
    pub path: Option<PathBuf>,
    /// What the command line adds to it.
    pub overrides: Overrides,
}

/// What the configuration is called in messages where there is no file.
pub const BUILT_IN: &str = "the built-in configuration";

impl Source {
    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(DEFAULT_PATH))
    }

    /// Reads it with the files that it names, and tells what it is called. Where no file was named and there is
    /// none, the defaults count; a file that is there and cannot be read is an error.
    ///
    /// # Errors
    /// As [`load()`](super::load()).
    pub fn load(&self) -> Result<(Loaded, String), LoadError> {
        self.load_with(Files::Read)
    }

    /// The same, and says what becomes of the files that it names.
    ///
    /// # Errors
    /// As [`load()`](super::load()).
    pub fn load_with(&self, files: Files) -> Result<(Loaded, String), LoadError> {
        self.understand(self.read()?.as_deref(), files)
    }

    /// The text, for who needs it besides what it means: a pipe can be read only once. `None`: no file was named
    /// and there is none.
    ///
    /// # Errors
    /// The file cannot be read, or is no text.
    pub fn read(&self) -> Result<Option<String>, LoadError> {
        match read_text(self.path()) {
            Err(LoadError::Read { source, .. })
                if self.path.is_none() && source.kind() == io::ErrorKind::NotFound =>
            {
                Ok(None)
            }
            text => text.map(Some),
        }
    }

    /// What was [read](Self::read), and what it is called.
    ///
    /// # Errors
    /// As [`from_text`](super::from_text).
    pub fn understand(&self, text: Option<&str>, files: Files) -> Result<(Loaded, String), LoadError> {
        let Some(text) = text else { return Ok((defaults(&self.overrides), BUILT_IN.to_owned())) };
        let label = self.path().display().to_string();
        Ok((from_text_with(&label, text, &self.overrides, files)?, label))
    }

    /// The admin socket that it names, even if it cannot be used otherwise; the default one where it cannot be
    /// read.
    #[must_use]
    pub fn socket(&self) -> Option<PathBuf> {
        socket_in(&read_text(self.path()).unwrap_or_default())
    }

    /// Reads it again for a guard that runs with `running`, as it was called the last time. A file that is gone
    /// since then is an error: nobody means a cluster to fall back to the defaults.
    ///
    /// # Errors
    /// As [`load()`](super::load()).
    pub fn load_again(&self, running: &str) -> Result<(Loaded, String), LoadError> {
        if running == BUILT_IN {
            return self.load();
        }
        Ok((load_with(self.path(), &self.overrides, Files::Read)?, running.to_owned()))
    }

    /// Reads `text` in the place of the file.
    ///
    /// # Errors
    /// As [`from_text`](super::from_text).
    pub fn load_text(&self, label: &str, text: &str) -> Result<Loaded, LoadError> {
        from_text_with(label, text, &self.overrides, Files::Read)
    }
}
