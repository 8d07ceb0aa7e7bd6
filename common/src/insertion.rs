//! Why the kernel adds no entry to a table.

/// Why an entry was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is one.
    Present,
    /// The table is full.
    Full,
    /// There is no memory, or another CPU has the table.
    Failed,
}

impl Refusal {
    /// What an error of the kernel means: `-errno`, as `bpf_map_update_elem` answers.
    #[inline(always)]
    pub const fn of(error: i32) -> Self {
        const EEXIST: i32 = -17;
        const E2BIG: i32 = -7;
        match error {
            EEXIST => Self::Present,
            E2BIG => Self::Full,
            _ => Self::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_full_table_is_full() {
        const ENOMEM: i32 = -12;
        const EBUSY: i32 = -16;
        assert_eq!(Refusal::of(-17), Refusal::Present);
        assert_eq!(Refusal::of(-7), Refusal::Full);
        assert_eq!(Refusal::of(ENOMEM), Refusal::Failed);
        assert_eq!(Refusal::of(EBUSY), Refusal::Failed);
    }
}
