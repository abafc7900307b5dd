//! Do tables, slots and counts agree?

use std::collections::BTreeSet;

use super::Scheduler;

impl Scheduler {
    /// Checks the pool, that each block's owners are the tables it stands in, that slots are held once, and that
    /// whoever runs came before whoever waits.
    ///
    /// # Errors
    ///
    /// A sentence about the first contradiction.
    pub(crate) fn audit(&self) -> Result<(), String> {
        self.pool.audit()?;
        let mut owners = vec![0; self.pool.total() as usize];
        for block in self.sequences.values().flat_map(|sequence| &sequence.blocks) {
            owners[*block as usize] += 1;
        }
        if let Some(block) =
            (0..self.pool.total()).find(|&b| self.pool.owners(b) != owners[b as usize])
        {
            let counted = self.pool.owners(block);
            let tables = owners[block as usize];
            return Err(format!(
                "block {block} has {counted} owners and stands in {tables} tables"
            ));
        }
        let leaving: usize = self
            .sequences
            .values()
            .filter(|sequence| !sequence.is_running())
            .map(|sequence| sequence.blocks.len())
            .sum();
        if leaving != self.leaving_blocks as usize {
            return Err(format!("{leaving} blocks leave, {} are counted", self.leaving_blocks));
        }
        self.audit_slots()?;
        let queue: Vec<_> = self.running.iter().chain(&self.waiting).collect();
        if !queue.is_sorted() {
            return Err(format!("{queue:?} run and wait out of order"));
        }
        let living = self.sequences.values().filter(|sequence| !sequence.is_over()).count();
        if living != queue.len() {
            return Err(format!("{living} sequences live, {} run or wait", queue.len()));
        }
        Ok(())
    }

    fn audit_slots(&self) -> Result<(), String> {
        let held: Vec<u32> = self.sequences.values().filter_map(|sequence| sequence.slot).collect();
        let all: BTreeSet<u32> = held.iter().chain(&self.free_slots).copied().collect();
        let total = held.len() + self.free_slots.len();
        if all.len() != total || total != self.sequences_max as usize {
            return Err(format!("slots {held:?} are held and {:?} free", self.free_slots));
        }
        Ok(())
    }
}
