//! `List` and `Array`.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ManagerError;
use super::frame::{self, Body, Op, put_u64, put_with};
use super::link::Link;
use super::method::{OnItem, OnItems, name_of};
use super::proxy::{Proxy, proxy};
use crate::codec;

proxy! {
    /// A list in a manager, shared by all who have a proxy of it.
    ///
    /// Every operation is atomic. Elements cross as copies: changing what [`get`](List::get) gave changes nothing in the manager; see
    /// [`update_at`](List::update_at). Elements may be proxies.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// use pool_core::{Manager, Pool, manager::List};
    /// let manager = Manager::new()?;
    /// let squares: List<u64> = manager.list([])?;
    /// let pool = Pool::new(2)?;
    /// let work = |squares: List<u64>, x: u64| -> anyhow::Result<()> { squares.push(&(x * x))?; Ok(()) };
    /// pool.starmap(work, (1..=3).map(|x| (squares.clone(), x)))?;
    /// let mut found = squares.snapshot()?;
    /// found.sort();
    /// assert_eq!(found, [1, 4, 9]);
    /// # Ok(())
    /// # }
    /// ```
    List<T> of List
}

proxy! {
    /// An array in a manager: a list whose length is fixed.
    ///
    /// ```
    /// # fn main() -> anyhow::Result<()> {
    /// # pool_core::init();
    /// let manager = pool_core::Manager::new()?;
    /// let array = manager.array([0_u32; 3])?;
    /// array.set(1, &7)?;
    /// assert_eq!(array.snapshot()?, [0, 7, 0]);
    /// # Ok(())
    /// # }
    /// ```
    Array<T> of Array
}

pub(super) fn write_items<T: Serialize + 'static>(
    link: &Link,
    items: &[T],
    out: &mut Vec<u8>,
) -> Result<Vec<u64>, ManagerError> {
    let mut references = Vec::new();
    for item in items {
        put_with(out, |out| {
            references.extend(link.encode_to_stay(item, out)?);
            Ok::<(), ManagerError>(())
        })?;
    }
    Ok(references)
}

pub(super) fn decode<T: DeserializeOwned + 'static>(bytes: &[u8]) -> Result<T, ManagerError> {
    codec::decode_value(bytes)
        .map_err(|error| ManagerError::Decode(format!("{}: {error}", std::any::type_name::<T>())))
}

pub(super) fn decode_option<T: DeserializeOwned + 'static>(
    body: &mut Body<'_>,
) -> Result<Option<T>, ManagerError> {
    match body.u8()? {
        0 => Ok(None),
        _ => decode(body.rest()).map(Some),
    }
}

pub(super) fn decode_all<T: DeserializeOwned + 'static>(
    body: &mut Body<'_>,
) -> Result<Vec<T>, ManagerError> {
    let mut all = Vec::new();
    while !body.is_empty() {
        all.push(decode(body.bytes()?)?);
    }
    Ok(all)
}

/// Number and value, which stays in the manager.
fn put_at<T: Serialize + 'static, R>(
    proxy: &Proxy,
    op: Op,
    index: usize,
    value: &T,
    read: impl FnOnce(&mut Body<'_>) -> Result<R, ManagerError>,
) -> Result<R, ManagerError> {
    let write = |out: &mut Vec<u8>| {
        put_u64(out, index as u64);
        proxy.link().encode_to_stay(value, out)
    };
    proxy.call(op, write, read)
}

fn as_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// What lists and arrays have in common.
macro_rules! elements {
    ($name:ident) => {
        impl<T: Serialize + DeserializeOwned + 'static> $name<T> {
            /// How many elements there are.
            ///
            /// # Errors
            /// The manager can't be asked.
            pub fn len(&self) -> Result<usize, ManagerError> {
                self.proxy.ask(Op::Len, &[], frame::u64).map(as_usize)
            }

            /// Whether there are no elements.
            ///
            /// # Errors
            /// The manager can't be asked.
            pub fn is_empty(&self) -> Result<bool, ManagerError> {
                self.len().map(|len| len == 0)
            }

            /// The element at `index`, if there is one.
            ///
            /// # Errors
            /// The manager can't be asked; the element is no `T`.
            pub fn get(&self, index: usize) -> Result<Option<T>, ManagerError> {
                self.proxy.ask(Op::Get, &[index as u64], decode_option)
            }

            /// Replaces the element at `index`; gives the one that was there.
            ///
            /// # Errors
            /// [`OutOfRange`](ManagerError::OutOfRange); the value can't be encoded; the manager can't be asked.
            pub fn set(&self, index: usize, value: &T) -> Result<T, ManagerError> {
                put_at(&self.proxy, Op::Set, index, value, |body| decode(body.rest()))
            }

            /// All elements, as they are at one moment.
            ///
            /// # Errors
            /// The manager can't be asked; an element is no `T`.
            pub fn snapshot(&self) -> Result<Vec<T>, ManagerError> {
                self.range(0, usize::MAX)
            }

            /// The elements from index `from` to before `to`, or as many of them as there are.
            ///
            /// # Errors
            /// As [`snapshot`](Self::snapshot).
            pub fn range(&self, from: usize, to: usize) -> Result<Vec<T>, ManagerError> {
                self.proxy.ask(Op::Range, &[from as u64, to as u64], decode_all)
            }

            /// Iterates over a [`snapshot`](Self::snapshot).
            ///
            /// # Errors
            /// As there.
            pub fn iter(&self) -> Result<std::vec::IntoIter<T>, ManagerError> {
                self.snapshot().map(Vec::into_iter)
            }

            /// The index of the first element whose encoded form is that of `value`.
            ///
            /// # Errors
            /// The value can't be encoded; the manager can't be asked.
            pub fn position(&self, value: &T) -> Result<Option<usize>, ManagerError> {
                let write = |out: &mut Vec<u8>| {
                    self.proxy.link().encode_to_stay(value, out).map(|_| Vec::new())
                };
                let index = self.proxy.call(Op::Position, write, frame::u64)?;
                Ok((index != u64::MAX).then(|| as_usize(index)))
            }

            /// Whether [`position`](Self::position) finds it.
            ///
            /// # Errors
            /// As there.
            pub fn contains(&self, value: &T) -> Result<bool, ManagerError> {
                self.position(value).map(|index| index.is_some())
            }

            /// How many elements have the encoded form of `value`.
            ///
            /// # Errors
            /// As [`position`](Self::position).
            pub fn count(&self, value: &T) -> Result<usize, ManagerError> {
                let write = |out: &mut Vec<u8>| {
                    self.proxy.link().encode_to_stay(value, out).map(|_| Vec::new())
                };
                self.proxy.call(Op::Count, write, frame::u64).map(as_usize)
            }

            /// Turns the order round.
            ///
            /// # Errors
            /// The manager can't be asked.
            pub fn reverse(&self) -> Result<(), ManagerError> {
                self.proxy.ask(Op::Reverse, &[], |_| Ok(()))
            }

            /// Runs `change` in the manager, on all elements: nobody else sees or changes the list meanwhile. All elements are decoded and encoded there, so
            /// this is for short lists; see [`update_at`](Self::update_at).
            ///
            /// The function captures nothing and has one argument, which may be a tuple. It must not use this list's proxy: that would wait for itself. If it
            /// panics, or if its result can't be encoded, nothing is changed.
            ///
            /// # Errors
            /// [`Panicked`](ManagerError::Panicked); [`OtherExecutable`](ManagerError::OtherExecutable); an element is no `T`; the manager can't be asked.
            pub fn update<A, R, F>(&self, _change: F, args: A) -> Result<R, ManagerError>
            where
                A: Serialize + DeserializeOwned + 'static,
                R: Serialize + DeserializeOwned + 'static,
                F: Fn(&mut Vec<T>, A) -> R + Copy + Send + 'static,
            {
                let write = |out: &mut Vec<u8>| {
                    put_u64(out, name_of::<OnItems<T, A, R, F>>().cast_unsigned());
                    Link::encode(&args, out).map(|()| Vec::new())
                };
                self.proxy.call(Op::Update, write, |body| decode(body.rest()))
            }

            /// Runs `change` in the manager, on the element at `index`: nobody else sees or changes the list meanwhile.
            ///
            /// ```
            /// # fn main() -> anyhow::Result<()> {
            /// # pool_core::init();
            /// let manager = pool_core::Manager::new()?;
            /// let counts = manager.list([0_u64, 0])?;
            /// let count = counts.update_at(1, |count, by: u64| { *count += by; *count }, 5)?;
            /// assert_eq!((count, counts.snapshot()?), (5, vec![0, 5]));
            /// # Ok(())
            /// # }
            /// ```
            ///
            /// # Errors
            /// [`OutOfRange`](ManagerError::OutOfRange), and as [`update`](Self::update).
            pub fn update_at<A, R, F>(
                &self,
                index: usize,
                _change: F,
                args: A,
            ) -> Result<R, ManagerError>
            where
                A: Serialize + DeserializeOwned + 'static,
                R: Serialize + DeserializeOwned + 'static,
                F: Fn(&mut T, A) -> R + Copy + Send + 'static,
            {
                let write = |out: &mut Vec<u8>| {
                    put_u64(out, name_of::<OnItem<T, A, R, F>>().cast_unsigned());
                    put_u64(out, index as u64);
                    Link::encode(&args, out).map(|()| Vec::new())
                };
                self.proxy.call(Op::UpdateAt, write, |body| decode(body.rest()))
            }

            /// Sorts the elements, in the manager.
            ///
            /// # Errors
            /// As [`update`](Self::update).
            pub fn sort(&self) -> Result<(), ManagerError>
            where
                T: Ord,
            {
                self.update(|items, ()| items.sort(), ())
            }
        }
    };
}

elements!(List);
elements!(Array);

impl<T: Serialize + DeserializeOwned + 'static> List<T> {
    /// Appends an element; gives its index.
    ///
    /// # Errors
    /// The value can't be encoded; the manager can't be asked.
    pub fn push(&self, value: &T) -> Result<usize, ManagerError> {
        let write = |out: &mut Vec<u8>| self.proxy.link().encode_to_stay(value, out);
        self.proxy.call(Op::Push, write, frame::u64).map(as_usize)
    }

    /// Puts an element before all others.
    ///
    /// # Errors
    /// As [`push`](List::push).
    pub fn push_front(&self, value: &T) -> Result<(), ManagerError> {
        let write = |out: &mut Vec<u8>| self.proxy.link().encode_to_stay(value, out);
        self.proxy.call(Op::PushFront, write, |_| Ok(()))
    }

    /// Appends all elements at once: they follow each other in the list.
    ///
    /// # Errors
    /// As [`push`](List::push). Nothing is appended then.
    pub fn extend(&self, values: impl IntoIterator<Item = T>) -> Result<(), ManagerError> {
        let link = self.proxy.link();
        // proxies among them must live until the manager holds their objects
        let values: Vec<T> = values.into_iter().collect();
        self.proxy.call(Op::Extend, |out| write_items(link, &values, out), |_| Ok(()))
    }

    /// Puts an element before the one at `index`, which may be the length.
    ///
    /// # Errors
    /// [`OutOfRange`](ManagerError::OutOfRange), and as [`push`](List::push).
    pub fn insert(&self, index: usize, value: &T) -> Result<(), ManagerError> {
        put_at(&self.proxy, Op::Insert, index, value, |_| Ok(()))
    }

    /// Takes the element at `index` out.
    ///
    /// # Errors
    /// [`OutOfRange`](ManagerError::OutOfRange); the element is no `T` (it is gone then); the manager can't be asked.
    pub fn remove(&self, index: usize) -> Result<T, ManagerError> {
        let read = |body: &mut Body<'_>| {
            body.u8()?;
            decode(body.rest())
        };
        self.proxy.ask(Op::Remove, &[index as u64], read)
    }

    /// Takes the last element out; `None` if there is none.
    ///
    /// # Errors
    /// As [`remove`](List::remove).
    pub fn pop(&self) -> Result<Option<T>, ManagerError> {
        self.proxy.ask(Op::Pop, &[], decode_option)
    }

    /// Takes the first element out; `None` if there is none.
    ///
    /// # Errors
    /// As [`remove`](List::remove).
    pub fn pop_front(&self) -> Result<Option<T>, ManagerError> {
        self.proxy.ask(Op::PopFront, &[], decode_option)
    }

    /// Takes all elements out.
    ///
    /// # Errors
    /// The manager can't be asked.
    pub fn clear(&self) -> Result<(), ManagerError> {
        self.proxy.ask(Op::Clear, &[], |_| Ok(()))
    }
}
