//! `Value`.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ManagerError;
use super::frame::{Op, put_u64};
use super::link::Link;
use super::list::decode;
use super::method::{OnItem, name_of};
use super::proxy::proxy;

proxy! {
    /// One value in a manager.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// let manager = pool_core::Manager::new()?;
    /// let best = manager.value((f64::MIN, String::new()))?;
    /// let offer = |best: &mut (f64, String), (score, by): (f64, String)| {
    ///     if score > best.0 {
    ///         *best = (score, by);
    ///     }
    /// };
    /// best.update(offer, (2.5, "ann".to_owned()))?;
    /// best.update(offer, (1.5, "bob".to_owned()))?;
    /// assert_eq!(best.get()?, (2.5, "ann".to_owned()));
    /// # Ok(())
    /// # }
    /// ```
    Value<T> of Value
}

impl<T: Serialize + DeserializeOwned + 'static> Value<T> {
    /// A copy of it.
    ///
    /// # Errors
    /// The manager can't be asked; it is no `T`.
    pub fn get(&self) -> Result<T, ManagerError> {
        self.proxy.ask(Op::ValueGet, &[], |body| decode(body.rest()))
    }

    /// Replaces it.
    ///
    /// # Errors
    /// The value can't be encoded; the manager can't be asked.
    pub fn set(&self, value: &T) -> Result<(), ManagerError> {
        let write = |out: &mut Vec<u8>| self.proxy.link().encode_to_stay(value, out);
        self.proxy.call(Op::ValueSet, write, |_| Ok(()))
    }

    /// Replaces it; gives what was there.
    ///
    /// # Errors
    /// As [`set`](Value::set) and [`get`](Value::get).
    pub fn replace(&self, value: &T) -> Result<T, ManagerError> {
        let write = |out: &mut Vec<u8>| self.proxy.link().encode_to_stay(value, out);
        self.proxy.call(Op::ValueSet, write, |body| decode(body.rest()))
    }

    /// Runs `change` in the manager: nobody else sees or changes the value meanwhile. What is said of functions at
    /// [`List::update`](crate::manager::List::update) holds here.
    ///
    /// # Errors
    /// As there.
    pub fn update<A, R, F>(&self, _change: F, args: A) -> Result<R, ManagerError>
    where
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
        F: Fn(&mut T, A) -> R + Copy + Send + 'static,
    {
        let write = |out: &mut Vec<u8>| {
            put_u64(out, name_of::<OnItem<T, A, R, F>>().cast_unsigned());
            Link::encode(&args, out).map(|()| Vec::new())
        };
        self.proxy.call(Op::Update, write, |body| decode(body.rest()))
    }
}
