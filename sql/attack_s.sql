-- Attack S (Ye et al. 2022): what shadow runs lose on records that they did not train on, to compare by label.
-- Parameters: $target  [run]  the run under attack, left out
-- Grain: one row a (shadow run, sample of either pool as it is, query 0) that the run did not train on.
with unseen as (
  select label, loss
  from signals
  where query = 0 and not member and not isnan(loss)
    and run <> $target and run in (select run from runs where role = 'shadow')
)
select label, loss
from unseen
