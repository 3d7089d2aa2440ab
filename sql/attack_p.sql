-- Attack P (Ye et al. 2022): the target's own losses on the population, which no run trained on; without those
-- of group canary, which are the candidates that canaries are ranked among and not drawn as other records are.
-- Parameters: $target  [run]  the run under attack
-- Grain: one row a sample of the population pool that the target has signals of, as it is (query 0).
with population as (
  select signals.sample_id, signals.label, signals.loss::double as loss
  from signals
  join samples on samples.sample_id = signals.sample_id and samples.pool = 'population'
    and samples."group" is distinct from 'canary'
  where signals.run = $target and signals.query = 0 and not signals.member and not isnan(signals.loss)
)
select sample_id, label, loss
from population
