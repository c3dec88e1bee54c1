//! Code of an attacker in a real host process, on the thread that a guest reaches and on the process' first one: whatever it
//! does fails, is told, and is nobody else's matter.

mod attempts;
mod log;
mod scene;
#[path = "../support/mod.rs"]
mod support;
mod words;

#[test]
fn there_is_something_to_expect_of_every_act() {
    let expected = attempts::EXPECTED
        .iter()
        .map(|(name, _)| *name)
        .chain(words::EXPECTED.iter().map(|(name, ..)| *name));
    let mut expected: Vec<_> = expected.chain(["flood"]).collect();
    expected.sort_unstable();
    assert_eq!(scene::acts().keys().collect::<Vec<_>>(), expected);
}
