//! What an engine that wraps another one leaves to it. It must never pass on what a wrapper is for:
//! snapshots, writes, syncs.

/// The methods of `Engine` that go to the engine in a field as they are.
macro_rules! passed_on {
    ($inner:ident) => {
        fn estimate(
            &self,
            cf: damask_kv::Cf,
            start: &[u8],
            end: &[u8],
        ) -> damask_kv::Result<damask_kv::Estimate> {
            self.$inner.estimate(cf, start, end)
        }

        fn checkpoint(&self, into: &std::path::Path) -> damask_kv::Result<()> {
            self.$inner.checkpoint(into)
        }

        fn ingest(
            &self,
            cf: damask_kv::Cf,
        ) -> damask_kv::Result<Box<dyn damask_kv::Ingestion + '_>> {
            self.$inner.ingest(cf)
        }

        fn capabilities(&self) -> damask_kv::Capabilities {
            self.$inner.capabilities()
        }

        fn statistics(&self) -> Vec<(String, u64)> {
            self.$inner.statistics()
        }
    };
}
pub(crate) use passed_on;
