//! An object that all workers of a pool can read.

use std::any::Any;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use serde::Serialize;

use crate::codec::Unencodable;
use crate::error::PoolError;
use crate::sys::memory;
use crate::worker::context;

/// The object, and how it is encoded: its type is forgotten here.
pub(super) struct Shareable {
    object: Arc<dyn Any + Send + Sync>,
    encode: fn(&(dyn Any + Send + Sync)) -> Result<Vec<u8>, Unencodable>,
}

impl Shareable {
    pub(super) fn new<T: Serialize + Send + Sync + 'static>(object: T) -> Shareable {
        fn encode<T: Serialize + 'static>(
            object: &(dyn Any + Send + Sync),
        ) -> Result<Vec<u8>, Unencodable> {
            match object.downcast_ref::<T>() {
                Some(object) => context::encode_shared(object),
                None => Err(Unencodable::Refused("it is of another type".to_owned())),
            }
        }
        Shareable { object: Arc::new(object), encode: encode::<T> }
    }

    /// For threads.
    pub(super) fn into_object(self) -> Arc<dyn Any + Send + Sync> {
        self.object
    }

    /// For processes: a file without a name that nobody can change, and its length.
    pub(super) fn into_file(self) -> Result<(Arc<OwnedFd>, u64), PoolError> {
        let bytes = (self.encode)(&*self.object).map_err(|error| {
            let Unencodable::Refused(text) = error else { unreachable!("there is no limit") };
            PoolError::Config(format!("the shared object can't be encoded: {text}"))
        })?;
        let file = memory::sealed_file(&bytes)
            .map_err(PoolError::os("cannot create shared memory for the shared object"))?;
        Ok((Arc::new(file), bytes.len() as u64))
    }
}

impl fmt::Debug for Shareable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shareable(..)")
    }
}
