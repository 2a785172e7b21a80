//! `Manager`: the rows of C6 of the conformance list that concern it, and what goes wrong around managers.
#![allow(clippy::unwrap_used, reason = "what fails here is the test's own failure")]

use pool_core::manager::{List, ManagerError};
use pool_core::{Manager, Process};
use pool_tests::Case;

pool_core::test_support!();

/// A manager whose process belongs to the test.
fn manager(case: &Case) -> Manager {
    Manager::builder().process(case.process().name("Manager")).start().unwrap()
}

#[test]
fn c6_192_two_clients_share_a_list() {
    let case = Case::new();
    let manager = manager(&case);
    let list: List<String> = manager.list(["zero".to_owned()]).unwrap();
    let append = |list: List<String>, word: String| -> anyhow::Result<usize> {
        assert_eq!(list.get(0)?.as_deref(), Some("zero"));
        Ok(list.push(&word)?)
    };
    let one: Process<usize> = case.process().spawn(append, (list.clone(), "a".to_owned())).unwrap();
    assert_eq!(one.join(), Ok(1));
    let two = case.process().spawn(append, (list.clone(), "b".to_owned())).unwrap();
    assert_eq!(two.join(), Ok(2));
    assert_eq!(list.snapshot().unwrap(), ["zero", "a", "b"]);
    assert_eq!(list.set(9, &String::new()), Err(ManagerError::OutOfRange { index: 9, len: 3 }));
}
