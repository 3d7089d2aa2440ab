-- Attack S (Ye et al. 2022): what shadow runs lose on records that they did not train on, to compare by label; without those of
-- group canary in the population, which are the candidates that canaries are ranked among and not drawn as other records are.
-- Parameters: $target  [run]  the run under attack, left out
-- Grain: one row a (shadow run, sample of either pool as it is, query 0) that the run did not train on.
with unseen as (
  select signals.label, signals.loss
  from signals
  join samples on samples.sample_id = signals.sample_id
    and (samples.pool = 'audit' or samples."group" is distinct from 'canary')
  where signals.query = 0 and not signals.member and not isnan(signals.loss)
    and signals.run <> $target and signals.run in (select run from runs where role = 'shadow')
)
select label, loss
from unseen
