//! The join through files, when the views do not fit into memory.
//!
//! ```text
//! views ──▶ rows by shard of their keys, 64 files per view ─────────┐
//! spine ──▶ its rows in order, one file                             ├─▶ a shard at a time: answers in order
//!       └─▶ questions (key, time) by shard, 64 files per look-up ───┘          │
//! spine again ──▶ each row takes the next answer of the shard of its key ◀─────┘
//! ```
//!
//! Answers lie in the order of the questions of their shard, and these in the order of the spine. So the result is put together
//! by reading all files once from the beginning, and nothing has to be sorted.
//!
//! A shard whose rows do not fit either, because one key has most of them perhaps, is gone through in passes: as many rows of the views as
//! fit are asked all questions, and each answer is the higher of this pass's and the one before. Memory is
//! bounded whatever comes: a chunk per view and one per file that is read at a time, and what the pool grants beyond.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{BatchCoalescer, interleave, take_record_batch};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema, SchemaRef};
use datafusion::common::{internal_datafusion_err, internal_err};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, SpillFile};
use datafusion::physical_plan::SpillManager;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

use super::exec::{Chunks, Join, Load, LookedUp, Lookup, Run};
use super::index::{Index, Place, Ranks, Shard, SpineRows};
use super::keys::{KeyValues, SHARDS, rows_by_shard, shard_of};
use super::view::{Chunk, ViewRows};

/// Rows of a batch in a file at most.
const FILE_BATCH_ROWS_MAX: usize = 8192;

/// A file that can be read, or none if there is nothing in it.
type Written = Option<Arc<dyn SpillFile>>;

/// Takes batches, and after the last one nothing more: then it gives the file. DataFusion's type for it has no public name.
type Writer = Box<dyn FnMut(Option<&RecordBatch>) -> Result<Written> + Send>;

fn writer(manager: &SpillManager) -> Result<Writer> {
    let mut file = manager.create_in_progress_file("point-in-time join")?;
    Ok(Box::new(move |batch: Option<&RecordBatch>| match batch {
        Some(batch) => file.append_batch(batch).map(|_| None),
        None => file.finish(),
    }))
}

fn reader(manager: &SpillManager, file: Arc<dyn SpillFile>) -> Result<SendableRecordBatchStream> {
    manager.read_spill_as_stream_unbuffered(file, None)
}

/// Lets other tasks run, and this one be stopped.
async fn give_way() {
    let mut was_polled = false;
    poll_fn(|context| {
        if was_polled {
            return Poll::Ready(());
        }
        was_polled = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A file for each shard that has rows.
struct ShardWriter {
    manager: SpillManager,
    writers: Vec<Option<Writer>>,
}

impl ShardWriter {
    fn new(manager: SpillManager) -> Self {
        Self { manager, writers: (0..SHARDS).map(|_| None).collect() }
    }

    async fn append(&mut self, batch: &RecordBatch, rows_by_shard: Vec<Vec<u32>>) -> Result<()> {
        for (writer_of_shard, rows) in self.writers.iter_mut().zip(rows_by_shard) {
            for rows in rows.chunks(FILE_BATCH_ROWS_MAX) {
                let taken = take_record_batch(batch, &UInt32Array::from(rows.to_vec()))?;
                let append = match writer_of_shard {
                    Some(append) => append,
                    None => writer_of_shard.insert(writer(&self.manager)?),
                };
                append(Some(&taken))?;
            }
        }
        give_way().await;
        Ok(())
    }

    fn finish(self) -> Result<Vec<Written>> {
        let writers = self.writers.into_iter();
        writers.map(|writer| writer.map_or(Ok(None), |mut finish| finish(None))).collect()
    }
}

/// Joins through files; `loads` is what was read of the views so far.
pub(super) async fn join(run: Run, loads: Vec<Load>) -> Result<BoxStream<'static, Result<RecordBatch>>> {
    let views = run.spill_views(loads).await?;
    let (spine, questions) = run.spill_spine().await?;
    let Some(spine) = spine else { return Ok(stream::empty().boxed()) };
    let mut answers = Vec::with_capacity(questions.len());
    for (lookup, questions) in run.join.lookups.iter().zip(questions) {
        let mut shards = Vec::with_capacity(SHARDS);
        for (shard, questions) in questions.into_iter().enumerate() {
            let rows = lookup.views.iter().map(|view| views[view.number][shard].clone()).collect();
            let answers = match questions {
                Some(questions) => run.answer(lookup, questions, rows).await?,
                None => None,
            };
            shards.push(answers);
        }
        answers.push(shards);
    }
    drop(views);
    let answers =
        run.join.lookups.iter().zip(answers).map(|(lookup, files)| Answers::new(&run, lookup, files));
    let restored = Restored {
        spine: reader(&run.manager(run.join.spine_schema.clone()), spine)?,
        answers: answers.collect::<Result<_>>()?,
        join: run.join.clone(),
    };
    // The run holds the reservation.
    let batches = stream::try_unfold((restored, run), |(mut restored, run)| async move {
        Ok(restored.next().await?.map(|batch| (batch, (restored, run))))
    });
    Ok(batches.boxed())
}

impl Run {
    fn manager(&self, schema: SchemaRef) -> SpillManager {
        SpillManager::new(self.context.runtime_env(), self.metrics.spill.clone(), schema)
            .with_compression_type(self.context.session_config().spill_compression())
    }

    /// Per view and shard, a file with its rows.
    async fn spill_views(&self, loads: Vec<Load>) -> Result<Vec<Vec<Written>>> {
        let mut files = Vec::with_capacity(loads.len());
        for (view, load) in self.join.views().into_iter().zip(loads) {
            let schema = view.columns.spilled_schema(&view.fields);
            let mut writer = ShardWriter::new(self.manager(schema.clone()));
            // Chunk by chunk, so that each is let go when it is written.
            for chunk in load.rows.chunks {
                writer.append(&chunk.spilled(&schema)?, chunk.rows_by_shard()).await?;
            }
            drop(load.reservation);
            if let Some(mut rest) = load.rest {
                while let Some(batch) = rest.next().await? {
                    self.metrics.view_rows.add(batch.num_rows());
                    let chunk = view.columns.read(&batch)?;
                    writer.append(&chunk.spilled(&schema)?, chunk.rows_by_shard()).await?;
                }
            }
            files.push(writer.finish()?);
        }
        Ok(files)
    }

    /// A file with the spine, and per look-up and shard one with its questions.
    async fn spill_spine(&self) -> Result<(Written, Vec<Vec<Written>>)> {
        let mut spine_writer = writer(&self.manager(self.join.spine_schema.clone()))?;
        let mut questions: Vec<(BatchCoalescer, ShardWriter)> = Vec::new();
        for lookup in &self.join.lookups {
            let schema = question_schema(lookup);
            let coalescer = BatchCoalescer::new(schema.clone(), self.chunk_size().rows_max);
            questions.push((coalescer, ShardWriter::new(self.manager(schema))));
        }
        let mut spine = self.spine()?;
        while let Some(batch) = spine.try_next().await? {
            spine_writer(Some(&batch))?;
            for (lookup, (coalescer, writer)) in self.join.lookups.iter().zip(&mut questions) {
                let rows = lookup.spine.read(&batch)?;
                let times = Int64Array::new(rows.times, rows.nulls);
                let columns = vec![rows.keys.array(), Arc::new(times) as ArrayRef];
                coalescer.push_batch(RecordBatch::try_new(question_schema(lookup), columns)?)?;
                write_questions(coalescer, writer).await?;
            }
        }
        let mut files = Vec::with_capacity(questions.len());
        for (mut coalescer, mut writer) in questions {
            coalescer.finish_buffered_batch()?;
            write_questions(&mut coalescer, &mut writer).await?;
            files.push(writer.finish()?);
        }
        Ok((spine_writer(None)?, files))
    }

    /// Answers the questions of a shard from the files with the rows of the views that are in it.
    async fn answer(
        &self,
        lookup: &Lookup,
        questions: Arc<dyn SpillFile>,
        files: Vec<Written>,
    ) -> Result<Written> {
        let mut source = SpilledRows::open(self, lookup, files)?;
        let mut pass = Pass { run: self, lookup, file: questions, has_answers: false };
        loop {
            let mut views: Vec<ViewRows> = lookup.views.iter().map(|_| ViewRows::new(1)).collect();
            let mut is_empty = true;
            while let Some((view, chunk)) = source.next().await? {
                let bytes = chunk.memory_bytes();
                if is_empty {
                    // Without one chunk there is no progress, and it is a small part of the memory.
                    self.reservation.grow(bytes);
                } else if views[view].is_full() || self.reservation.try_grow(bytes).is_err() {
                    source.put_back(view, chunk);
                    break;
                }
                is_empty = false;
                views[view].push(chunk)?;
            }
            if is_empty {
                return Ok(pass.has_answers.then_some(pass.file));
            }
            let shard = {
                let _timer = self.metrics.build_time.timer();
                Shard::build(&views, 0)?
            };
            let fields: Vec<Vec<FieldRef>> = lookup.views.iter().map(answer_fields).collect();
            let index = lookup.index(vec![shard], &views, &fields);
            drop(views);
            pass.ask(&index).await?;
            drop(index);
            self.reservation.free();
        }
    }
}

/// A key and a time, which is null in a row that nothing belongs to.
fn question_schema(lookup: &Lookup) -> SchemaRef {
    let key = KeyValues::data_type(lookup.spine.encoder.is_bytes());
    Arc::new(Schema::new(vec![Field::new("key", key, false), Field::new("time", DataType::Int64, true)]))
}

async fn write_questions(coalescer: &mut BatchCoalescer, writer: &mut ShardWriter) -> Result<()> {
    while let Some(batch) = coalescer.next_completed_batch() {
        let rows = rows_by_shard(&KeyValues::from_array(batch.column(0))?, batch.column(1).nulls());
        writer.append(&batch, rows).await?;
    }
    Ok(())
}

/// The columns of a view in a file of answers: those that are wanted, and those that rows are compared by.
fn answer_fields(view: &LookedUp) -> Vec<FieldRef> {
    let mut fields = view.fields.clone();
    fields.extend(view.columns.rank_fields());
    fields
}

/// A question with its answer in each view.
fn answer_schema(lookup: &Lookup) -> SchemaRef {
    let mut fields = question_schema(lookup).fields().to_vec();
    fields.extend(lookup.views.iter().flat_map(answer_fields));
    Arc::new(Schema::new(fields))
}

fn ranks(view: &LookedUp) -> Ranks {
    Ranks {
        values: view.fields.len(),
        has_known: view.columns.known_time.is_some(),
        has_offset: view.columns.offset.is_some(),
    }
}

/// The rows of a shard, view by view.
struct SpilledRows<'a> {
    lookup: &'a Lookup,
    views: VecDeque<(usize, Chunks)>,
    kept: Option<(usize, Chunk)>,
}

impl<'a> SpilledRows<'a> {
    fn open(run: &Run, lookup: &'a Lookup, files: Vec<Written>) -> Result<Self> {
        let mut views = VecDeque::with_capacity(files.len());
        for (number, (view, file)) in lookup.views.iter().zip(files).enumerate() {
            if let Some(file) = file {
                let batches = reader(&run.manager(view.columns.spilled_schema(&view.fields)), file)?;
                views.push_back((number, Chunks::new(batches, run.chunk_size())));
            }
        }
        Ok(Self { lookup, views, kept: None })
    }

    async fn next(&mut self) -> Result<Option<(usize, Chunk)>> {
        if let Some(kept) = self.kept.take() {
            return Ok(Some(kept));
        }
        while let Some((view, chunks)) = self.views.front_mut() {
            if let Some(batch) = chunks.next().await? {
                let chunk = self.lookup.views[*view].columns.read_spilled(&batch)?;
                return Ok(Some((*view, chunk)));
            }
            self.views.pop_front();
        }
        Ok(None)
    }

    fn put_back(&mut self, view: usize, chunk: Chunk) {
        self.kept = Some((view, chunk));
    }
}

/// Asks the questions of a shard, once for each part of the views' rows that fits into memory.
struct Pass<'a> {
    run: &'a Run,
    lookup: &'a Lookup,
    /// The questions, with the answers found so far if there are any.
    file: Arc<dyn SpillFile>,
    has_answers: bool,
}

impl Pass<'_> {
    async fn ask(&mut self, index: &Index) -> Result<()> {
        let schema = answer_schema(self.lookup);
        let asked = if self.has_answers { schema.clone() } else { question_schema(self.lookup) };
        let mut batches = reader(&self.run.manager(asked), self.file.clone())?;
        let mut append = writer(&self.run.manager(schema.clone()))?;
        while let Some(batch) = batches.try_next().await? {
            let columns = self.answered(index, &batch)?;
            append(Some(&RecordBatch::try_new(schema.clone(), columns)?))?;
        }
        let answered = append(None)?;
        self.file = answered.ok_or_else(|| internal_datafusion_err!("questions without answers"))?;
        self.has_answers = true;
        Ok(())
    }

    fn answered(&self, index: &Index, batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let keys = KeyValues::from_array(batch.column(0))?;
        let times = batch.column(1).as_primitive::<Int64Type>();
        let questions = SpineRows {
            hashes: keys.hashes(),
            keys,
            times: times.values().clone(),
            nulls: times.nulls().cloned(),
        };
        let mut columns = batch.columns()[..2].to_vec();
        let mut first = columns.len();
        for (number, (view, places)) in self.lookup.views.iter().zip(index.places(&questions)).enumerate() {
            let next = first + answer_fields(view).len();
            columns.extend(if self.has_answers {
                index.merged(number, &places, &batch.columns()[first..next], ranks(view))?
            } else {
                index.gathered(number, &places)?
            });
            first = next;
        }
        Ok(columns)
    }
}

/// The answers of one shard on their way.
struct ShardAnswers {
    batches: SendableRecordBatchStream,
    batch: Option<RecordBatch>,
    next: usize,
}

impl ShardAnswers {
    /// Whether the next answer lies in another batch than the one before; [`batch`](Self::batch) has it then.
    async fn turn_page(&mut self) -> Result<bool> {
        while self.batch.as_ref().is_none_or(|batch| self.next == batch.num_rows()) {
            self.batch = self.batches.try_next().await?;
            self.next = 0;
            if self.batch.is_none() {
                return internal_err!("a file of a point-in-time join ends too early");
            }
        }
        Ok(self.next == 0)
    }
}

/// The answers of a look-up, to be taken in the order of the spine.
struct Answers {
    /// Per view, its columns that are wanted, as they are numbered in the files.
    columns: Vec<std::ops::Range<usize>>,
    /// One null of each column.
    nulls: Vec<ArrayRef>,
    shards: Vec<Option<ShardAnswers>>,
}

impl Answers {
    fn new(run: &Run, lookup: &Lookup, files: Vec<Written>) -> Result<Self> {
        let schema = answer_schema(lookup);
        let manager = run.manager(schema.clone());
        let mut columns = Vec::with_capacity(lookup.views.len());
        let mut first = question_schema(lookup).fields().len();
        for view in &lookup.views {
            columns.push(first..first + view.fields.len());
            first += answer_fields(view).len();
        }
        let shards = files.into_iter().map(|file| {
            let batches = file.map(|file| reader(&manager, file)).transpose()?;
            Ok(batches.map(|batches| ShardAnswers { batches, batch: None, next: 0 }))
        });
        let nulls = schema.fields().iter().map(|field| new_null_array(field.data_type(), 1)).collect();
        Ok(Self { columns, nulls, shards: shards.collect::<Result<_>>()? })
    }

    /// The columns of each view for the next rows of the spine.
    async fn next(&mut self, spine: &SpineRows) -> Result<Vec<Vec<ArrayRef>>> {
        let mut batches: Vec<RecordBatch> = Vec::new();
        // The array that the answers of a shard are in now; the first one is a null.
        let mut arrays = [0; SHARDS];
        let mut places: Vec<Place> = Vec::with_capacity(spine.times.len());
        for row in 0..spine.times.len() {
            let shard = shard_of(spine.hashes[row]);
            let Some(answers) = self.shards[shard].as_mut().filter(|_| !spine.is_null(row)) else {
                places.push((0, 0));
                continue;
            };
            if answers.turn_page().await? || arrays[shard] == 0 {
                batches.extend(answers.batch.clone());
                arrays[shard] = batches.len();
            }
            places.push((arrays[shard], answers.next));
            answers.next += 1;
        }
        let column = |column: usize| {
            let mut arrays: Vec<&dyn Array> = vec![self.nulls[column].as_ref()];
            arrays.extend(batches.iter().map(|batch| batch.column(column).as_ref()));
            interleave(&arrays, &places)
        };
        let views = self.columns.iter().map(|columns| columns.clone().map(&column).collect::<Result<_, _>>());
        Ok(views.collect::<Result<_, _>>()?)
    }

    /// # Errors
    /// If there is an answer that no row has taken.
    async fn end(&mut self) -> Result<()> {
        for answers in self.shards.iter_mut().flatten() {
            let left = answers.batch.as_ref().map_or(0, |batch| batch.num_rows() - answers.next);
            if left > 0 || answers.batches.try_next().await?.is_some() {
                return internal_err!(
                    "a file of a point-in-time join has more answers than the spine has rows"
                );
            }
        }
        Ok(())
    }
}

/// The spine with the answers to its rows.
struct Restored {
    join: Arc<Join>,
    spine: SendableRecordBatchStream,
    answers: Vec<Answers>,
}

impl Restored {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let Some(batch) = self.spine.try_next().await? else {
            for answers in &mut self.answers {
                answers.end().await?;
            }
            return Ok(None);
        };
        let mut views = Vec::with_capacity(self.answers.len());
        for (lookup, answers) in self.join.lookups.iter().zip(&mut self.answers) {
            views.push(answers.next(&lookup.spine.read(&batch)?).await?);
        }
        self.join.assembled(&batch, &views).map(Some)
    }
}
