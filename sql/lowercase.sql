-- Lowercase (Carlini et al. 2021): the target's mean token loss of the text against that of the text in lower case.
-- Parameters: $target  [run]  the run under attack
-- Grain: one row a sample of the audit pool that the target has token losses of; score is -loss / lower_loss, NULL where
-- lower_loss is NULL or 0.
with attacked as (
  select signals.sample_id, signals.member, list_avg(token_losses) as loss, signals.lower_loss::double as lower_loss
  from signals
  join samples on samples.sample_id = signals.sample_id and samples.pool = 'audit'
  where signals.run = $target and signals.query = 0 and token_losses is not null
)
select sample_id, member,
       0 - loss / nullif(lower_loss, 0) as score,
       loss,
       lower_loss
from attacked
order by sample_id
