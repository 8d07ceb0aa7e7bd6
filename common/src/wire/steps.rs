//! Loops whose body the verifier of the kernel checks once.

/// A computation that is repeated until it returns false.
pub trait Steps {
    /// How many steps the kernel program does in one call of its loop's callback: a call and its return cost it more
    /// than a short step, and the verifier follows each of them.
    const AT_ONCE: u32 = 1;

    fn step(&mut self) -> bool;
}
