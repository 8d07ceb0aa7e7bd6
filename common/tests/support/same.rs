//! Compares streams, and shows where they differ.

pub fn same(got: &[u8], expected: &[u8], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}: length");
    if let Some(at) = got.iter().zip(expected).position(|(a, b)| a != b) {
        let around = |bytes: &[u8]| {
            bytes[at.saturating_sub(60)..(at + 60).min(bytes.len())]
                .escape_ascii()
                .to_string()
        };
        panic!(
            "{what} differs at {at}:\n{}\n{}",
            around(got),
            around(expected)
        );
    }
}
