-- zlib (Carlini et al. 2021): the target's mean token loss against how far zlib compresses the text.
-- Parameters: $target  [run]  the run under attack
-- Grain: one row a sample of the audit pool that the target has token losses of; score is -loss / zlib_bytes, NULL where
-- the sample's zlib_bytes are.
with attacked as (
  select signals.sample_id, signals.member, list_avg(token_losses) as loss, samples.zlib_bytes
  from signals
  join samples on samples.sample_id = signals.sample_id and samples.pool = 'audit'
  where signals.run = $target and signals.query = 0 and token_losses is not null
)
select sample_id, member,
       0 - loss / nullif(zlib_bytes, 0) as score,
       loss,
       zlib_bytes
from attacked
order by sample_id
