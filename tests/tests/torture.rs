//! A short run of the torture; `cargo xtask torture` goes on for as long as one likes.

use std::time::Duration;

use truename_tests::torture::{Outcome, Torture, torture};

#[test]
fn random_scenarios_arrive_right_and_never_stand_still_for_longer_than_untouched() {
    let what = Torture {
        seed: 9,
        time: Duration::from_secs(60),
        volume: 3 << 20,
        only: None,
    };
    let mut passed = 0;
    let mut failures = Vec::new();
    torture(&what, |scenario, outcome| {
        match outcome {
            Outcome::Passed { .. } => passed += 1,
            Outcome::Skipped(why) => println!("skipped: {why}: {scenario}"),
            Outcome::Failed(why) => {
                let again = what.again(scenario.number);
                failures.push(format!("{why}\n  {scenario}\n  again: {again}"));
            }
        }
        Ok(())
    })
    .unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(passed > 5, "only {passed} scenarios were run");
}
