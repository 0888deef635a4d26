//! The memory of one query, in the memory that all queries share.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::error::{DataFusionError, Result};
use datafusion::execution::disk_manager::DiskManagerBuilder;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};

use super::QueryLimits;

/// What one query runs in: as `shared`, with memory and temporary files of its own.
pub(in crate::query) fn runtime_of(shared: &RuntimeEnv, limits: &QueryLimits) -> Result<Arc<RuntimeEnv>> {
    let pool = QueryPool {
        shared: shared.memory_pool.clone(),
        used: AtomicUsize::new(0),
        bytes_max: usize::try_from(limits.memory_bytes_max).unwrap_or(usize::MAX),
    };
    let files = DiskManagerBuilder::default().with_max_temp_directory_size(limits.spill_bytes_max);
    RuntimeEnvBuilder::from_runtime_env(shared)
        .with_memory_pool(Arc::new(pool))
        .with_disk_manager_builder(files)
        .build_arc()
}

/// The memory of one query, in the memory of all.
#[derive(Debug)]
struct QueryPool {
    shared: Arc<dyn MemoryPool>,
    used: AtomicUsize,
    bytes_max: usize,
}

impl fmt::Display for QueryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl MemoryPool for QueryPool {
    fn name(&self) -> &str {
        "query"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.shared.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.shared.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.used.fetch_add(additional, Ordering::Relaxed);
        self.shared.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.used.fetch_sub(shrink, Ordering::Relaxed);
        self.shared.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let grown = |used: usize| used.checked_add(additional).filter(|grown| *grown <= self.bytes_max);
        if self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_err() {
            return Err(DataFusionError::ResourcesExhausted(format!(
                "{} may have {} bytes",
                reservation.consumer().name(),
                self.bytes_max
            )));
        }
        self.shared.try_grow(reservation, additional).inspect_err(|_| {
            self.used.fetch_sub(additional, Ordering::Relaxed);
        })
    }

    fn reserved(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn memory_limit(&self) -> MemoryLimit {
        match self.shared.memory_limit() {
            MemoryLimit::Finite(bytes) => MemoryLimit::Finite(bytes.min(self.bytes_max)),
            other if self.bytes_max == usize::MAX => other,
            _ => MemoryLimit::Finite(self.bytes_max),
        }
    }
}
