//! `Dict` and `Namespace`.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ManagerError;
use super::frame::{self, Body, Op, put_u64, put_with};
use super::link::Link;
use super::list::{decode, decode_all, decode_option};
use super::method::{OnSlot, name_of};
use super::proxy::{Proxy, proxy};

proxy! {
    /// A map in a manager, shared by all who have a proxy of it. It keeps the order in which keys came.
    ///
    /// Every operation is atomic. Keys are the same if their encoded forms are: for keys that hold a `HashMap`, say, that is not what `Eq` says. Values may be
    /// proxies; they cross as copies, see [`update`](Dict::update).
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// use pool_core::{Manager, Pool, manager::Dict};
    /// let manager = Manager::new()?;
    /// let counts: Dict<String, u64> = manager.dict([])?;
    /// let count = |counts: Dict<String, u64>, word: String| -> anyhow::Result<()> {
    ///     counts.update(&word, |count, by: u64| *count.get_or_insert(0) += by, 1)?;
    ///     Ok(())
    /// };
    /// let words = ["a", "b", "a"].map(|word| (counts.clone(), word.to_owned()));
    /// Pool::new(2)?.starmap(count, words)?;
    /// assert_eq!(counts.get("a")?, Some(2));
    /// assert_eq!(counts.len()?, 2);
    /// # Ok(())
    /// # }
    /// ```
    Dict<K, V> of Dict
}

proxy! {
    /// Named values of any types in a manager.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// let manager = pool_core::Manager::new()?;
    /// let settings = manager.namespace()?;
    /// settings.set("depth", &3_u32)?;
    /// settings.set("title", &"none".to_owned())?;
    /// assert_eq!(settings.get::<u32>("depth")?, Some(3));
    /// assert_eq!(settings.names()?, ["depth", "title"]);
    /// # Ok(())
    /// # }
    /// ```
    Namespace of Namespace
}

/// How a key may be given: `&str` for `String`, and so on. The encoded forms must be the same, which they are for the types that implement it.
pub trait KeyRef<K>: Serialize {}

impl<K: Serialize> KeyRef<K> for K {}
impl KeyRef<String> for str {}
impl<T: Serialize> KeyRef<Vec<T>> for [T] {}

fn put_key<Q: Serialize + ?Sized>(key: &Q, out: &mut Vec<u8>) -> Result<(), ManagerError> {
    let limit = crate::limits::MANAGER_FRAME_BYTES as u64;
    crate::codec::encode(key, out, limit).map_err(|e| ManagerError::unencodable(e, limit))
}

fn with_key<Q: Serialize + ?Sized, R>(
    proxy: &Proxy,
    op: Op,
    key: &Q,
    read: impl FnOnce(&mut Body<'_>) -> Result<R, ManagerError>,
) -> Result<R, ManagerError> {
    proxy.call(op, |out| put_key(key, out).map(|()| Vec::new()), read)
}

fn with_both<Q: Serialize + ?Sized, V: Serialize + 'static, R>(
    proxy: &Proxy,
    op: Op,
    key: &Q,
    value: &V,
    read: impl FnOnce(&mut Body<'_>) -> Result<R, ManagerError>,
) -> Result<R, ManagerError> {
    let write = |out: &mut Vec<u8>| {
        put_with(out, |out| put_key(key, out))?;
        proxy.link().encode_to_stay(value, out)
    };
    proxy.call(op, write, read)
}

fn count(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl<K, V> Dict<K, V>
where
    K: Serialize + DeserializeOwned + 'static,
    V: Serialize + DeserializeOwned + 'static,
{
    /// How many keys there are.
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn len(&self) -> Result<usize, ManagerError> {
        self.proxy.ask(Op::Len, &[], frame::u64).map(count)
    }

    /// Whether there are no keys.
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn is_empty(&self) -> Result<bool, ManagerError> {
        self.len().map(|len| len == 0)
    }

    /// The value of a key, if there is one.
    ///
    /// # Errors
    /// The key can't be encoded; the value is no `V`; the manager can't be asked.
    pub fn get<Q: KeyRef<K> + ?Sized>(&self, key: &Q) -> Result<Option<V>, ManagerError> {
        with_key(&self.proxy, Op::DictGet, key, decode_option)
    }

    /// Gives a key a value; gives the one that it had.
    ///
    /// # Errors
    /// As [`get`](Dict::get); the value can't be encoded.
    pub fn insert<Q: KeyRef<K> + ?Sized>(
        &self,
        key: &Q,
        value: &V,
    ) -> Result<Option<V>, ManagerError> {
        with_both(&self.proxy, Op::DictInsert, key, value, decode_option)
    }

    /// Takes a key and its value out.
    ///
    /// # Errors
    /// As [`get`](Dict::get).
    pub fn remove<Q: KeyRef<K> + ?Sized>(&self, key: &Q) -> Result<Option<V>, ManagerError> {
        with_key(&self.proxy, Op::DictRemove, key, decode_option)
    }

    /// Whether the key is there.
    ///
    /// # Errors
    /// As [`get`](Dict::get).
    pub fn contains_key<Q: KeyRef<K> + ?Sized>(&self, key: &Q) -> Result<bool, ManagerError> {
        with_key(&self.proxy, Op::DictContains, key, frame::u8).map(|there| there != 0)
    }

    /// The value of a key, which is given this one first if it has none.
    ///
    /// # Errors
    /// As [`insert`](Dict::insert).
    pub fn get_or_insert<Q: KeyRef<K> + ?Sized>(
        &self,
        key: &Q,
        value: &V,
    ) -> Result<V, ManagerError> {
        with_both(&self.proxy, Op::DictGetOrInsert, key, value, |body| decode(body.rest()))
    }

    /// Inserts all these at once.
    ///
    /// # Errors
    /// As [`insert`](Dict::insert). Nothing is inserted then.
    pub fn extend(&self, entries: impl IntoIterator<Item = (K, V)>) -> Result<(), ManagerError> {
        // proxies among them must live until the manager holds their objects
        let entries: Vec<(K, V)> = entries.into_iter().collect();
        let write = |out: &mut Vec<u8>| {
            let mut references = Vec::new();
            for (key, value) in &entries {
                put_with(out, |out| put_key(key, out))?;
                put_with(out, |out| {
                    references.extend(self.proxy.link().encode_to_stay(value, out)?);
                    Ok::<(), ManagerError>(())
                })?;
            }
            Ok(references)
        };
        self.proxy.call(Op::DictExtend, write, |_| Ok(()))
    }

    /// Takes everything out.
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn clear(&self) -> Result<(), ManagerError> {
        self.proxy.ask(Op::Clear, &[], |_| Ok(()))
    }

    /// All keys and values, as they are at one moment.
    ///
    /// # Errors
    /// The manager can't be asked; a key or value is of another type.
    pub fn snapshot(&self) -> Result<Vec<(K, V)>, ManagerError> {
        self.proxy.ask(Op::DictItems, &[], |body| {
            let mut entries = Vec::new();
            while !body.is_empty() {
                entries.push((decode(body.bytes()?)?, decode(body.bytes()?)?));
            }
            Ok(entries)
        })
    }

    /// Iterates over a [`snapshot`](Dict::snapshot).
    ///
    /// # Errors
    /// As there.
    pub fn iter(&self) -> Result<std::vec::IntoIter<(K, V)>, ManagerError> {
        self.snapshot().map(Vec::into_iter)
    }

    /// All keys.
    ///
    /// # Errors
    /// As [`snapshot`](Dict::snapshot).
    pub fn keys(&self) -> Result<Vec<K>, ManagerError> {
        self.proxy.ask(Op::DictKeys, &[], decode_all)
    }

    /// All values.
    ///
    /// # Errors
    /// As [`snapshot`](Dict::snapshot).
    pub fn values(&self) -> Result<Vec<V>, ManagerError> {
        self.proxy.ask(Op::DictValues, &[], decode_all)
    }

    /// Runs `change` in the manager, on the value of a key: `None` if it has none, and to be set to `None` to remove the key. Nobody else sees or changes the map
    /// meanwhile. What is said of functions at [`List::update`](crate::manager::List::update) holds here.
    ///
    /// # Errors
    /// As there.
    pub fn update<Q, A, R, F>(&self, key: &Q, _change: F, args: A) -> Result<R, ManagerError>
    where
        Q: KeyRef<K> + ?Sized,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
        F: Fn(&mut Option<V>, A) -> R + Copy + Send + 'static,
    {
        let write = |out: &mut Vec<u8>| {
            put_u64(out, name_of::<OnSlot<V, A, R, F>>().cast_unsigned());
            put_with(out, |out| put_key(key, out))?;
            Link::encode(&args, out).map(|()| Vec::new())
        };
        self.proxy.call(Op::UpdateKey, write, |body| decode(body.rest()))
    }
}

impl Namespace {
    /// The value of this name, if there is one.
    ///
    /// # Errors
    /// The value is no `T`; the manager can't be asked.
    pub fn get<T: DeserializeOwned + 'static>(
        &self,
        name: &str,
    ) -> Result<Option<T>, ManagerError> {
        with_key(&self.proxy, Op::DictGet, name, decode_option)
    }

    /// Gives this name a value.
    ///
    /// # Errors
    /// The value can't be encoded; the manager can't be asked.
    pub fn set<T: Serialize + 'static>(&self, name: &str, value: &T) -> Result<(), ManagerError> {
        with_both(&self.proxy, Op::DictInsert, name, value, |_| Ok(()))
    }

    /// Removes this name; whether it was there.
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn remove(&self, name: &str) -> Result<bool, ManagerError> {
        with_key(&self.proxy, Op::DictRemove, name, frame::u8).map(|there| there != 0)
    }

    /// All names, in the order in which they came.
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn names(&self) -> Result<Vec<String>, ManagerError> {
        self.proxy.ask(Op::DictKeys, &[], decode_all)
    }

    /// Runs `change` in the manager, on the value of this name: see [`Dict::update`].
    ///
    /// # Errors
    /// As there.
    pub fn update<T, A, R, F>(&self, name: &str, _change: F, args: A) -> Result<R, ManagerError>
    where
        T: Serialize + DeserializeOwned + 'static,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
        F: Fn(&mut Option<T>, A) -> R + Copy + Send + 'static,
    {
        let write = |out: &mut Vec<u8>| {
            put_u64(out, name_of::<OnSlot<T, A, R, F>>().cast_unsigned());
            put_with(out, |out| put_key(name, out))?;
            Link::encode(&args, out).map(|()| Vec::new())
        };
        self.proxy.call(Op::UpdateKey, write, |body| decode(body.rest()))
    }
}
