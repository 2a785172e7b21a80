//! What all proxies are made of: a lease on an object, and how it travels.
//!
//! An object lives as long as somebody has a proxy of it. A process that has one holds a *lease*, which ends with the proxy, or with the process, because the
//! manager sees its connections close. What is on its way has no process, so whoever serializes a proxy takes a *ticket* first, which counts as a
//! proxy until the first one that was made of these bytes has its own lease. Proxies that are stored in the manager itself get no tickets:
//! the container counts as their holder.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ManagerError;
use super::address::Address;
use super::auth::Key;
use super::frame::{self, Body, Op, put_bytes, put_u64};
use super::link::Link;

/// One object of one manager.
#[derive(Clone)]
pub struct Proxy {
    lease: Arc<Lease>,
}

struct Lease {
    link: Arc<Link>,
    object: u64,
    /// The manager knows of it.
    held: bool,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.held {
            self.link.tell(Op::Release, self.object);
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("manager", &self.lease.link.address)
            .field("object", &self.lease.object)
            .finish_non_exhaustive()
    }
}

/// The same object.
impl PartialEq for Proxy {
    fn eq(&self, other: &Proxy) -> bool {
        self.lease.object == other.lease.object
            && self.lease.link.instance == other.lease.link.instance
    }
}

impl Eq for Proxy {}

/// What a proxy is on its way.
#[derive(Serialize, Deserialize)]
struct Packed {
    address: String,
    key: [u8; 32],
    instance: u64,
    object: u64,
    /// 0: none.
    ticket: u64,
}

impl Serialize for Proxy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Lease { link, object, .. } = &*self.lease;
        let ticket = if collect(link.instance, *object) {
            0
        } else {
            // if the manager is gone, whoever gets the proxy will be told when it is used
            link.call(Op::Ticket, *object, |_| Ok(Vec::new()), frame::u64).unwrap_or(0)
        };
        let address = link.address.to_string();
        let Key(key) = link.key;
        Packed { address, key, instance: link.instance, object: *object, ticket }
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Proxy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Proxy, D::Error> {
        let Packed { address, key, instance, object, ticket } = Packed::deserialize(deserializer)?;
        let link = Link::of(Address::parse(&address), Key(key), instance);
        let write = |out: &mut Vec<u8>| {
            put_u64(out, ticket);
            Ok(Vec::new())
        };
        // as above
        let held = link.call(Op::Acquire, object, write, |_| Ok(())).is_ok();
        Ok(Proxy { lease: Arc::new(Lease { link, object, held }) })
    }
}

impl Proxy {
    /// Of an object on which the manager has just given a lease to this process.
    pub(super) fn of(link: &Arc<Link>, object: u64) -> Proxy {
        Proxy { lease: Arc::new(Lease { link: Arc::clone(link), object, held: true }) }
    }

    pub(super) fn link(&self) -> &Arc<Link> {
        &self.lease.link
    }

    pub(super) fn id(&self) -> u64 {
        self.lease.object
    }

    /// See [`Link::call`].
    pub(super) fn call<R>(
        &self,
        op: Op,
        write: impl FnOnce(&mut Vec<u8>) -> Result<Vec<u64>, ManagerError>,
        read: impl FnOnce(&mut Body<'_>) -> Result<R, ManagerError>,
    ) -> Result<R, ManagerError> {
        self.lease.link.call(op, self.lease.object, write, read)
    }

    /// With nothing but numbers in its body.
    pub(super) fn ask<R>(
        &self,
        op: Op,
        numbers: &[u64],
        read: impl FnOnce(&mut Body<'_>) -> Result<R, ManagerError>,
    ) -> Result<R, ManagerError> {
        let write = |out: &mut Vec<u8>| {
            numbers.iter().for_each(|&number| put_u64(out, number));
            Ok(Vec::new())
        };
        self.call(op, write, read)
    }

    pub(super) fn destroy(&self) -> Result<(), ManagerError> {
        self.ask(Op::Destroy, &[], |_| Ok(()))
    }
}

thread_local! {
    /// The manager that is to keep what is being encoded, and the objects of it that were met.
    static COLLECTOR: RefCell<Option<(u64, Vec<u64>)>> = const { RefCell::new(None) };
}

/// Does `encode`, in which proxies of this manager are noted instead of getting tickets.
pub(super) fn collecting<R>(instance: u64, encode: impl FnOnce() -> R) -> (R, Vec<u64>) {
    /// Puts back what was there, also if `encode` panics.
    struct Restore(Option<(u64, Vec<u64>)>);
    impl Drop for Restore {
        fn drop(&mut self) {
            COLLECTOR.set(self.0.take());
        }
    }
    let restore = Restore(COLLECTOR.replace(Some((instance, Vec::new()))));
    let result = encode();
    let met = COLLECTOR.take().map(|(_, met)| met).unwrap_or_default();
    drop(restore);
    (result, met)
}

fn collect(instance: u64, object: u64) -> bool {
    COLLECTOR.with_borrow_mut(|collector| match collector {
        Some((keeper, met)) if *keeper == instance => {
            met.push(object);
            true
        }
        _ => false,
    })
}

/// A typed proxy of an object of a [`Manager`](crate::Manager): what can be [published](crate::Manager::publish) by a name.
///
/// It is implemented by the types of this module only.
pub trait Shared: Sized + private::Sealed {
    #[doc(hidden)]
    const KIND: Kind;
    #[doc(hidden)]
    fn proxy(&self) -> &Proxy;
    #[doc(hidden)]
    fn of(proxy: Proxy) -> Self;
}

pub(super) mod private {
    /// Keeps strangers out.
    pub trait Sealed {}
}

/// What an object is.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    List,
    Dict,
    Namespace,
    Value,
    Array,
    Queue,
    Lock,
    RLock,
    Semaphore,
    BoundedSemaphore,
    Condition,
    Event,
    Barrier,
    Registered,
}

impl Kind {
    const ALL: [Kind; 14] = [
        Kind::List,
        Kind::Dict,
        Kind::Namespace,
        Kind::Value,
        Kind::Array,
        Kind::Queue,
        Kind::Lock,
        Kind::RLock,
        Kind::Semaphore,
        Kind::BoundedSemaphore,
        Kind::Condition,
        Kind::Event,
        Kind::Barrier,
        Kind::Registered,
    ];

    pub(super) fn of(byte: u8) -> Option<Kind> {
        Kind::ALL.get(usize::from(byte)).copied()
    }
}

/// Asks a manager for a new object; `write` appends what it is made of.
pub(super) fn create<S: Shared>(
    link: &Arc<Link>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<Vec<u64>, ManagerError>,
) -> Result<S, ManagerError> {
    let write = |out: &mut Vec<u8>| {
        out.push(S::KIND as u8);
        write(out)
    };
    let id = link.call(Op::Create, 0, write, frame::u64)?;
    Ok(S::of(Proxy::of(link, id)))
}

/// Makes an object known by a name.
pub(super) fn publish<S: Shared>(name: &str, object: &S) -> Result<(), ManagerError> {
    let write = |out: &mut Vec<u8>| {
        put_bytes(out, name.as_bytes());
        Ok(Vec::new())
    };
    object.proxy().call(Op::Publish, write, |_| Ok(()))
}

/// Finds what was published.
pub(super) fn lookup<S: Shared>(link: &Arc<Link>, name: &str) -> Result<S, ManagerError> {
    let write = |out: &mut Vec<u8>| {
        out.push(S::KIND as u8);
        put_bytes(out, name.as_bytes());
        Ok(Vec::new())
    };
    let id = link.call(Op::Lookup, 0, write, frame::u64)?;
    Ok(S::of(Proxy::of(link, id)))
}

/// Declares a typed proxy: `struct Name<T> of Kind`.
macro_rules! proxy {
    ($(#[$doc:meta])* $name:ident $(<$($T:ident),+>)? of $kind:ident) => {
        $(#[$doc])*
        pub struct $name $(<$($T),+>)? {
            proxy: $crate::manager::proxy::Proxy,
            $(types: ::std::marker::PhantomData<fn() -> ($($T,)+)>,)?
        }

        impl $(<$($T),+>)? $crate::manager::proxy::private::Sealed for $name $(<$($T),+>)? {}

        impl $(<$($T),+>)? $crate::manager::proxy::Shared for $name $(<$($T),+>)? {
            const KIND: $crate::manager::proxy::Kind = $crate::manager::proxy::Kind::$kind;

            fn proxy(&self) -> &$crate::manager::proxy::Proxy {
                &self.proxy
            }

            fn of(proxy: $crate::manager::proxy::Proxy) -> Self {
                $name { proxy $(, types: ::std::marker::PhantomData::<fn() -> ($($T,)+)>)? }
            }
        }

        impl $(<$($T),+>)? $name $(<$($T),+>)? {
            /// Makes the manager forget the object now, whoever has proxies of it: for them it is [`NoSuchObject`](crate::manager::ManagerError::NoSuchObject).
            ///
            /// # Errors
            /// [`NoSuchObject`](crate::manager::ManagerError::NoSuchObject), or the manager can't be asked.
            pub fn destroy(&self) -> Result<(), $crate::manager::ManagerError> {
                self.proxy.destroy()
            }
        }

        impl $(<$($T),+>)? Clone for $name $(<$($T),+>)? {
            fn clone(&self) -> Self {
                $crate::manager::proxy::Shared::of(self.proxy.clone())
            }
        }

        /// Whether both are proxies of one object; what it holds is not compared.
        impl $(<$($T),+>)? PartialEq for $name $(<$($T),+>)? {
            fn eq(&self, other: &Self) -> bool {
                self.proxy == other.proxy
            }
        }

        impl $(<$($T),+>)? Eq for $name $(<$($T),+>)? {}

        impl $(<$($T),+>)? ::std::fmt::Debug for $name $(<$($T),+>)? {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.debug_tuple(stringify!($name)).field(&self.proxy).finish()
            }
        }

        impl $(<$($T),+>)? ::serde::Serialize for $name $(<$($T),+>)? {
            fn serialize<Ser: ::serde::Serializer>(&self, serializer: Ser) -> Result<Ser::Ok, Ser::Error> {
                self.proxy.serialize(serializer)
            }
        }

        impl<'de $(, $($T),+)?> ::serde::Deserialize<'de> for $name $(<$($T),+>)? {
            fn deserialize<De: ::serde::Deserializer<'de>>(deserializer: De) -> Result<Self, De::Error> {
                let proxy = <$crate::manager::proxy::Proxy as ::serde::Deserialize>::deserialize(deserializer)?;
                Ok($crate::manager::proxy::Shared::of(proxy))
            }
        }
    };
}
pub(super) use proxy;
