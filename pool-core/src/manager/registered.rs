//! Types of the user in a manager: a value, and methods that are called by name.

use std::any::type_name;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::ManagerError;
use super::frame::{Op, put_bytes};
use super::link::Link;
use super::method::{Make, OnState, OnStateFallible, TryMake, name_of};
use super::proxy::{create, proxy};
use crate::codec;

/// A type that a manager offers: how a value is made, and which methods clients may call. Nothing else of it can be reached.
///
/// Functions capture nothing and have one argument, which may be a tuple. They run in the manager, one at a time for each value; an error or a panic arrives
/// at the caller as [`Failed`](ManagerError::Failed) or [`Panicked`](ManagerError::Panicked), and the manager goes on with the value as it is then.
///
/// ```
/// # fn main() -> anyhow::Result<()> {
/// # pool_core::init();
/// use pool_core::Manager;
/// use pool_core::manager::{Exposed, Registered};
///
/// struct Account { balance: i64 }
///
/// let account = Exposed::new("Account", |balance: i64| Account { balance })
///     .method("balance", |account: &mut Account, ()| account.balance)
///     .fallible("withdraw", |account: &mut Account, amount: i64| {
///         anyhow::ensure!(amount <= account.balance, "there are only {}", account.balance);
///         account.balance -= amount;
///         Ok(account.balance)
///     });
/// let manager = Manager::builder().register(account).start()?;
/// let account: Registered<Account> = manager.create("Account", 100_i64)?;
/// assert_eq!(account.call::<i64>("withdraw", 30_i64)?, 70);
/// assert_eq!(account.call::<i64>("withdraw", 80_i64).unwrap_err().to_string(), "there are only 70");
/// assert_eq!(account.call::<i64>("balance", ())?, 70);
/// assert!(account.call::<i64>("steal", ()).is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "give it to ManagerBuilder::register"]
pub struct Exposed<T> {
    names: TypeNames,
    of: PhantomData<fn() -> T>,
}

/// A registered type as it is told to the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TypeNames {
    pub(super) name: String,
    pub(super) make: i64,
    pub(super) methods: Vec<(String, i64)>,
}

impl<T: Send + 'static> Exposed<T> {
    /// A type that clients make values of by this name. `make` runs in the manager.
    pub fn new<A, F>(name: impl Into<String>, _make: F) -> Exposed<T>
    where
        A: DeserializeOwned + 'static,
        F: Fn(A) -> T + Copy + Send + 'static,
    {
        Exposed::of(name.into(), name_of::<Make<T, A, F>>())
    }

    /// The same, if making a value can fail: the caller of [`Manager::create`](crate::Manager::create) gets the error.
    pub fn try_new<A, F>(name: impl Into<String>, _make: F) -> Exposed<T>
    where
        A: DeserializeOwned + 'static,
        F: Fn(A) -> anyhow::Result<T> + Copy + Send + 'static,
    {
        Exposed::of(name.into(), name_of::<TryMake<T, A, F>>())
    }

    fn of(name: String, make: i64) -> Exposed<T> {
        Exposed { names: TypeNames { name, make, methods: Vec::new() }, of: PhantomData }
    }

    pub(super) fn into_names(self) -> TypeNames {
        self.names
    }

    /// Clients may call this.
    pub fn method<A, R, F>(mut self, name: impl Into<String>, _method: F) -> Exposed<T>
    where
        A: DeserializeOwned + 'static,
        R: Serialize + 'static,
        F: Fn(&mut T, A) -> R + Copy + Send + 'static,
    {
        self.names.methods.push((name.into(), name_of::<OnState<T, A, R, F>>()));
        self
    }

    /// The same, for a method that can fail.
    pub fn fallible<A, R, F>(mut self, name: impl Into<String>, _method: F) -> Exposed<T>
    where
        A: DeserializeOwned + 'static,
        R: Serialize + 'static,
        F: Fn(&mut T, A) -> anyhow::Result<R> + Copy + Send + 'static,
    {
        self.names.methods.push((name.into(), name_of::<OnStateFallible<T, A, R, F>>()));
        self
    }
}

proxy! {
    /// A value of a type that was [registered](Exposed) with the manager.
    Registered<T> of Registered
}

impl<T> Registered<T> {
    pub(super) fn create<A: Serialize + 'static>(
        link: &std::sync::Arc<Link>,
        name: &str,
        args: &A,
    ) -> Result<Registered<T>, ManagerError> {
        create(link, |out| {
            put_bytes(out, name.as_bytes());
            Link::encode(args, out).map(|()| Vec::new())
        })
    }

    /// Calls a method in the manager. Blocks until it has returned.
    ///
    /// # Errors
    /// [`UnknownMethod`](ManagerError::UnknownMethod), which lists those that there are; [`Failed`](ManagerError::Failed) and
    /// [`Panicked`](ManagerError::Panicked), if the method has; [`Decode`](ManagerError::Decode), if the arguments or the result are of other types than the
    /// method's; the manager can't be asked.
    pub fn call<R: DeserializeOwned + 'static>(
        &self,
        method: &str,
        args: impl Serialize + 'static,
    ) -> Result<R, ManagerError> {
        let write = |out: &mut Vec<u8>| {
            put_bytes(out, method.as_bytes());
            Link::encode(&args, out).map(|()| Vec::new())
        };
        self.proxy.call(Op::Call, write, |body| {
            codec::decode_value(body.rest()).map_err(|error| {
                let result = type_name::<R>();
                ManagerError::Decode(format!(
                    "the result of the method {method:?} as {result}: {error}"
                ))
            })
        })
    }
}
