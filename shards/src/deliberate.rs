//! Mistakes made on purpose, so that the simulator can show that it sees them.
//!
//! They exist only with the feature `deliberate-bugs`, which the tests of the simulator switch on, and only in builds with debug
//! assertions: no release has them. Even then nothing is wrong until a thread asks for one mistake, and only on that thread.

/// A mistake of the engine. `docs/simulator.md` names them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    TailPageForgotten,
    BlankOffByOne,
    SegmentEndOffByOne,
    HalfMessageDelivered,
    StoreTimeGoesBack,
    SnapshotAheadOfTheLog,
    SnapshotAheadOfTheQueues,
    TornTailLeft,
    ScanWithoutCrc,
    TrustAConsumeQueue,
    OffsetsAheadOfTheLog,
    RemoveBeforeItsTime,
    QueueStartTooFar,
    EmptiedQueueStartsAnew,
}

/// Whether this build can make mistakes at all.
pub const ARE_POSSIBLE: bool = cfg!(all(feature = "deliberate-bugs", debug_assertions));

#[cfg(all(feature = "deliberate-bugs", debug_assertions))]
thread_local! {
    static CHOSEN: std::cell::Cell<Option<Mistake>> = const { std::cell::Cell::new(None) };
}

/// Lets this thread make `mistake` from now on, or none. Nothing happens in a build without mistakes.
pub fn choose(mistake: Option<Mistake>) {
    #[cfg(all(feature = "deliberate-bugs", debug_assertions))]
    CHOSEN.set(mistake);
    #[cfg(not(all(feature = "deliberate-bugs", debug_assertions)))]
    let _ = mistake;
}

/// Whether to make `mistake` here.
#[inline]
pub(crate) fn makes(mistake: Mistake) -> bool {
    #[cfg(all(feature = "deliberate-bugs", debug_assertions))]
    return CHOSEN.get() == Some(mistake);
    #[cfg(not(all(feature = "deliberate-bugs", debug_assertions)))]
    {
        let _ = mistake;
        false
    }
}
