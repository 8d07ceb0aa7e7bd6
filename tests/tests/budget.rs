//! The kernel's verifier does not do more for a program than it may.

use std::path::Path;

use truename::datapath::OBJECT;
use truename_tests::budget::{Budget, measure};

#[test]
fn every_program_is_within_its_budget() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../xtask/budget.json");
    let measured = measure(OBJECT).unwrap();
    let report = Budget::read(&path).unwrap().report(&measured).unwrap();
    for (program, refusal) in report.refusals() {
        eprintln!("{program}: {refusal}");
    }
    println!("{report}");
    assert!(report.exceeded().is_empty(), "{report}");
}
