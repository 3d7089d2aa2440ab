-- Loss (Yeom et al. 2018): the target's loss on the sample as it is (query 0), turned so that higher = member.
-- Parameters: $target  [run]  the run under attack
-- Grain: one row a sample of the audit pool that the target has signals of; score is -loss, NULL where the loss is
-- not finite.
with attacked as (
  select signals.sample_id, signals.member, signals.label, signals.loss::double as loss
  from signals
  join samples on samples.sample_id = signals.sample_id and samples.pool = 'audit'
  where signals.run = $target and signals.query = 0
)
select sample_id, member,
       case when isfinite(loss) then -loss end as score,
       loss,
       label
from attacked
order by sample_id
