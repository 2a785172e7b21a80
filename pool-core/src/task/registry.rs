//! Functions by name, for executables other than the parent's own.

use std::collections::BTreeMap;
use std::fmt;

use super::entry::{Fault, Output, failed};

type Named = Box<dyn Fn(&[u8]) -> anyhow::Result<Vec<u8>> + Send + Sync>;

/// The functions that a worker executable offers by name: bytes in, bytes out. What the bytes mean is agreed between both
/// programs; `pool-worker` uses JSON.
///
/// ```
/// let registry = pool_core::Registry::new().register("reverse", |input| {
///     Ok(input.iter().rev().copied().collect())
/// });
/// assert_eq!(registry.names().collect::<Vec<_>>(), ["reverse"]);
/// ```
#[derive(Default)]
pub struct Registry(BTreeMap<String, Named>);

impl Registry {
    /// A registry without functions.
    #[must_use]
    pub fn new() -> Registry {
        Registry::default()
    }

    /// Adds a function; one of the same name is replaced. An `Err` of the function becomes
    /// [`TaskError::Failed`](crate::TaskError::Failed), a panic [`TaskError::Panicked`](crate::TaskError::Panicked).
    #[must_use]
    pub fn register(
        mut self,
        name: impl Into<String>,
        function: impl Fn(&[u8]) -> anyhow::Result<Vec<u8>> + Send + Sync + 'static,
    ) -> Registry {
        self.0.insert(name.into(), Box::new(function));
        self
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(crate) fn call(&self, input: &[u8], out: &mut Output<'_>) -> Result<(), Fault> {
        let (name, input) = split(input)
            .ok_or_else(|| Fault::Decode("the task's name could not be read".to_owned()))?;
        let function = self.0.get(name).ok_or_else(|| {
            let known = self.names().collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() {
                "it offers none: call pool_core::init_with(registry) instead of init()".to_owned()
            } else {
                format!("it has: {known}")
            };
            Fault::Failed(format!("this executable has no task named {name:?}; {known}"))
        })?;
        let result = function(input).map_err(failed)?;
        let size = (out.bytes.len() + result.len()) as u64;
        if size > out.limit {
            return Err(Fault::TooLarge(size));
        }
        out.bytes.extend_from_slice(&result);
        Ok(())
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// The input of a named task: the name's length, the name, the input proper.
pub(crate) fn join(name: &str, input: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + name.len() + input.len());
    bytes.extend_from_slice(&(name.len() as u32).to_le_bytes());
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(input);
    bytes
}

fn split(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (name, input) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    Some((std::str::from_utf8(name).ok()?, input))
}
